"""Logs that can't be provoked on every machine; test_launchers provokes the others."""

from __future__ import annotations

import pytest

from manager.engines.llama.failures import explain_crash, explain_failure, ran_out_of_memory

AT = "0.00.079.874 "
STARTED = AT + "I srv  llama_server: listening on unix:///run/a.sock"
# A context of 400,000 tokens under `ulimit -v`.
HOST_MEMORY = [
    AT + "W llama_context: n_ctx_seq (400128) > n_ctx_train (4096) -- possible training context overflow",
    AT + "E ggml_aligned_malloc: insufficient memory (attempted to allocate 391.89 MB)",
    AT + "E ggml_backend_cpu_buffer_type_alloc_buffer: failed to allocate buffer of size 410929184",
    AT + "E ggml_gallocr_reserve_n_impl: failed to allocate CPU buffer of size 410929184",
    AT + "E graph_reserve: failed to allocate compute buffers",
    AT + "E llama_init_from_model: failed to initialize the context: failed to allocate compute pp buffers",
    AT + "E cmn  common_init_: failed to create context with model '/m.gguf'",
    AT + "E srv    load_model: failed to create_context with model '/m.gguf'",
    AT + "I srv    operator(): operator(): cleaning up before exit...",
    AT + "E srv  llama_server: exiting due to model loading error",
]
GPU_MEMORY = [
    AT
    + "E ggml_backend_cuda_buffer_type_alloc_buffer: "
    + "allocating 4000.00 MiB on device 0: cudaMalloc failed: out of memory",
    AT + "E alloc_tensor_range: failed to allocate CUDA0 buffer of size 4194304000",
    AT + "E llama_model_load: error loading model: unable to allocate CUDA0 buffer",
    AT + "E llama_model_load_from_file_impl: failed to load model",
]


@pytest.mark.parametrize(
    ("log", "expected"),
    [
        ([], ""),
        ([STARTED], ""),
        (HOST_MEMORY, "insufficient memory (attempted to allocate 391.89 MB)"),
        (
            GPU_MEMORY,
            "allocating 4000.00 MiB on device 0: cudaMalloc failed: out of memory; unable to allocate CUDA0 buffer",
        ),
        (["error: invalid argument: --no-such-flag"], "invalid argument: --no-such-flag"),
        (
            ['error while handling argument "--device": invalid device: CUDA0', "", "usage:", "-dev,  --device <dev1>"],
            'error while handling argument "--device": invalid device: CUDA0',
        ),
        (["terminate called after throwing an instance of 'std::system_error'", "  what():  No room"], "No room"),
        (
            ["llama-server: error while loading shared libraries: libcudart.so.13: cannot open shared object file"],
            "llama-server: error while loading shared libraries: libcudart.so.13: cannot open shared object file",
        ),
        (
            ["embedded: llama.cpp did not start: Failed to init server, please check the input params."],
            "llama.cpp did not start: Failed to init server, please check the input params.",
        ),
        (
            [
                AT + "E ggml_cuda_init: failed to initialize CUDA: no CUDA-capable device is detected",
                AT + "E llama_model_load: error loading model: unknown model architecture: 'x'",
            ],
            "unknown model architecture: 'x'",
        ),
    ],
)
def test_the_cause_is_picked_from_its_consequences(log: list[str], expected: str) -> None:
    assert explain_failure(log) == expected


def test_a_crash_while_serving_is_not_blamed_on_a_request_that_failed_before() -> None:
    request = AT + "E srv    send_error: task id = 5, error: request (301 tokens) exceeds the available context size"
    assert explain_failure([STARTED, request]) == ""
    crash = "/src/ggml/src/ggml-cuda/ggml-cuda.cu:98: CUDA error"
    assert explain_failure([STARTED, request, crash]) == crash


def test_a_crash_while_serving_is_explained_by_fatal_lines_alone() -> None:
    survived = AT + "E srv  update_slots: failed to find free space in the KV cache"
    crash = "/src/ggml/src/ggml-cuda/ggml-cuda.cu:98: CUDA error"
    assert explain_crash([survived]) == ""
    assert explain_crash([survived, crash, survived]) == crash


def test_errors_of_an_earlier_start_do_not_explain_a_later_end() -> None:
    assert explain_failure([*HOST_MEMORY, STARTED]) == ""


def test_want_of_memory_is_recognised() -> None:
    assert ran_out_of_memory(HOST_MEMORY)
    assert ran_out_of_memory(GPU_MEMORY)
    assert not ran_out_of_memory([AT + "E llama_model_load: error loading model: unknown model architecture: 'x'"])


def test_memory_that_llama_cpp_could_do_without_is_no_want_of_it() -> None:
    pinned = AT + "W ggml_cuda_host_malloc: failed to allocate 100.00 MiB of pinned memory: out of memory"
    assert not ran_out_of_memory([pinned, AT + "E llama_model_load: error loading model: unknown model architecture"])
    assert ran_out_of_memory(
        ["terminate called after throwing an instance of 'std::bad_alloc'", "  what():  bad_alloc"]
    )
