"""From a source to files in their places: hubs, mirrors, addresses; what is there already; what is not believed."""

from __future__ import annotations

import asyncio
import hashlib
import json
import os
from pathlib import Path
from typing import Any

import pytest

from manager.downloads import DownloadFailed, NoRoom
from manager.model_store import (
    BadSource,
    ChoiceNeeded,
    Plan,
    import_file,
    manifests,
    pull,
    resolve,
    suggested_entry,
    verify,
)
from manager.models_file import read_models_file
from tests.fakes.hub import COMMIT, Fault, running_hub
from tests.manager.model_store.conftest import Store, gguf_entry, write_all

REPO = "org/tiny-GGUF"
HF = {
    "config.json": b'{"model_type": "llama"}',
    "tokenizer.json": b"{}",
    "tokenizer.model": b"words",
    "vocab.txt": b"a b c",
    "chat_template.jinja": b"{{ x }}",
    "generation_config.json": b"{}",
    "model.safetensors": b"s" * 1000,
    "1_Pooling/config.json": b'{"pooling": 1}',
    "pytorch_model.bin": b"p" * 1000,
    "consolidated.safetensors": b"c" * 1000,
    "original/consolidated.00.pth": b"o",
    "original/params.json": b"{}",
    "onnx/model.onnx": b"x",
    "onnx/config.json": b"{}",
    "modeling_tiny.py": b"print()",
    "README.md": b"read me",
    "LICENSE.txt": b"free",
    ".gitattributes": b"*",
}


async def suggested(plan: Plan) -> tuple[str, dict[str, Any]]:
    return await asyncio.to_thread(suggested_entry, plan)


def tiny(store: Store, number: int) -> bytes:
    """GGUF files that differ behind their end."""
    return store.tiny + bytes([number])


@pytest.fixture
def repository(store: Store) -> dict[str, bytes]:
    files = {
        "tiny-Q4_K_M.gguf": tiny(store, 1),
        "tiny-Q8_0.gguf": tiny(store, 2),
        "mmproj-tiny-f16.gguf": tiny(store, 3),
        "README.md": b"read me",
    }
    store.hub.add_repository(REPO, files)
    return files


async def test_a_repository_gives_its_preferred_quantisation_and_projector(
    store: Store, repository: dict[str, bytes]
) -> None:
    pulled = await store.pull(REPO)
    plan = pulled.plan
    assert store.there == ["org/tiny-GGUF/mmproj-tiny-f16.gguf", "org/tiny-GGUF/tiny-Q4_K_M.gguf"]
    assert (plan.quant, plan.revision, plan.name) == ("Q4_K_M", COMMIT, "tiny-Q4_K_M")
    assert [choice.quant for choice in plan.choices] == ["Q4_K_M", "Q8_0"]
    assert plan.model.read_bytes() == repository["tiny-Q4_K_M.gguf"]
    assert pulled.came == plan.size == 2 * len(store.tiny) + 2
    assert await suggested(plan) == (
        "tiny-Q4_K_M",
        {"params": {"model": "org/tiny-GGUF/tiny-Q4_K_M.gguf", "mmproj": "org/tiny-GGUF/mmproj-tiny-f16.gguf"}},
    )
    (manifest,) = await asyncio.to_thread(manifests, store.folder)
    assert manifest.file == pulled.manifest
    assert (manifest.source, manifest.revision) == (f"{store.hub.address}/{REPO}", COMMIT)
    assert {file.sha256 for file in manifest.files} == {file.sha256 for file in plan.files}
    assert [check.state for check in await verify(gguf_entry(plan.model), store.settings)] == ["ok"]


async def test_another_quantisation_may_be_asked_for_in_two_ways(store: Store, repository: dict[str, bytes]) -> None:
    for plan in (await store.resolve(f"{REPO}:q8_0"), await store.resolve(REPO, quant="Q8_0", mmproj=False)):
        assert plan.model.name == "tiny-Q8_0.gguf"
    assert [file.target.name for file in plan.files] == ["tiny-Q8_0.gguf"]
    with pytest.raises(BadSource, match="quant: the source says"):
        await store.resolve(f"{REPO}:Q8_0", quant="Q4_K_M")


async def test_one_that_is_not_there_is_answered_with_those_that_are(
    store: Store, repository: dict[str, bytes]
) -> None:
    with pytest.raises(ChoiceNeeded, match=r"has no quantisation Q2_K\. There are: Q4_K_M") as caught:
        await store.resolve(f"{REPO}:Q2_K")
    assert [choice.quant for choice in caught.value.choices] == ["Q4_K_M", "Q8_0"]


async def test_a_file_is_named_by_its_path_or_page(store: Store, repository: dict[str, bytes]) -> None:
    for source in (f"{REPO}/tiny-Q8_0.gguf", f"{store.hub.address}/{REPO}/blob/main/tiny-Q8_0.gguf"):
        assert (await store.resolve(source)).model.name == "tiny-Q8_0.gguf"
    with pytest.raises(BadSource, match=r"did you mean tiny-Q8_0\.gguf"):
        await store.resolve(f"{REPO}/tiny-Q8_1.gguf")


async def test_a_revision_is_made_a_commit(store: Store) -> None:
    store.hub.add_repository(REPO, {"m.gguf": store.tiny}, commit="b" * 40, revision="refs/pr/1")
    plan = await store.resolve(f"{REPO}@refs/pr/1", name="mine")
    assert (plan.revision, plan.name) == ("b" * 40, "mine")
    assert plan.files[0].urls == (f"{store.hub.address}/{REPO}/resolve/{'b' * 40}/m.gguf",)


async def test_a_split_model_comes_with_all_its_parts_out_of_a_tree_of_many_pages(store: Store) -> None:
    names = [f"Q4_K_M/big-Q4_K_M-0000{number}-of-00003.gguf" for number in (1, 2, 3)]
    files = {name: tiny(store, number) for number, name in enumerate(names)}
    store.hub.add_repository(REPO, {"README.md": b"", **files, "Q8_0/big-Q8_0.gguf": b"x"}, page=2)
    pulled = await store.pull(REPO)
    assert store.there == [f"{REPO}/{name}" for name in names]
    assert pulled.plan.name == "big-Q4_K_M"
    assert pulled.plan.model.name == "big-Q4_K_M-00001-of-00003.gguf"


async def test_progress_is_of_all_files_together(store: Store, repository: dict[str, bytes]) -> None:
    told: list[tuple[int, int | None]] = []
    plan = await store.resolve(REPO)
    await pull(plan, store.settings, lambda *numbers: told.append(numbers))
    assert told[-1] == (plan.size, plan.size)
    assert told == sorted(told)
    assert {total for _, total in told} == {plan.size}


async def test_what_is_there_is_not_fetched_again(store: Store, repository: dict[str, bytes]) -> None:
    await store.pull(REPO)
    asked = len(store.hub.requests)
    again = await store.pull(REPO)
    assert again.came == 0
    assert len(store.hub.requests) == asked + 2  # the commit and the tree
    other = await store.pull(f"{REPO}:Q8_0")
    assert other.came == len(repository["tiny-Q8_0.gguf"])  # they share the projector


async def test_a_pull_that_failed_goes_on_with_the_next_file(store: Store, repository: dict[str, bytes]) -> None:
    path = f"/{REPO}/resolve/{COMMIT}/mmproj-tiny-f16.gguf"
    store.hub.fail(path, Fault(status=404))
    with pytest.raises(DownloadFailed, match="does not exist"):
        await store.pull(REPO)
    assert (await store.pull(REPO)).came == len(repository["mmproj-tiny-f16.gguf"])


async def test_a_new_commit_replaces_what_came_before(store: Store, repository: dict[str, bytes]) -> None:
    await store.pull(REPO)
    store.hub.add_repository(REPO, {"tiny-Q4_K_M.gguf": tiny(store, 9)}, commit="d" * 40)
    pulled = await store.pull(REPO)
    assert pulled.plan.model.read_bytes()[-1] == 9
    (manifest,) = await asyncio.to_thread(manifests, store.folder)
    assert manifest.revision == "d" * 40


async def test_a_file_that_nobody_knows_is_not_overwritten(store: Store, repository: dict[str, bytes]) -> None:
    write_all(store.folder, {f"{REPO}/tiny-Q4_K_M.gguf": b"precious"})
    with pytest.raises(BadSource, match="is there already and is another file"):
        await store.pull(REPO)
    write_all(store.folder, {f"{REPO}/tiny-Q4_K_M.gguf": repository["tiny-Q4_K_M.gguf"]})
    assert (await store.pull(REPO, mmproj=False)).came == 0


async def test_mirrors_stand_in_for_the_list_and_for_each_file_without_the_token(store: Store) -> None:
    data = tiny(store, 1)
    async with running_hub() as mirror:
        mirror.add_repository(REPO, {"m.gguf": data})
        store.hub.add_repository(REPO, {"m.gguf": data})
        several = store.with_hub(mirrors=[mirror.address], token="hf_secret")
        info, file = f"/api/models/{REPO}/revision/main", f"/{REPO}/resolve/{COMMIT}/m.gguf"
        store.hub.fail(info, *[Fault(status=503)] * 6)
        store.hub.fail(file, Fault(body=b"wrong" + data[5:]))
        # A token that was given as text is one all the same.
        several.settings = several.settings.model_copy(
            update={"hub": type(several.settings.hub).model_validate(several.settings.hub.model_dump())}
        )
        assert (await several.pull(REPO)).plan.model.read_bytes() == data
        assert {request.headers.get("authorization") for request in store.hub.requests} == {"Bearer hf_secret"}
        assert len(mirror.requests) == 3
        assert all("authorization" not in request.headers for request in mirror.requests)


async def test_what_a_mirror_could_not_mend_is_not_asked_of_it(store: Store) -> None:
    async with running_hub() as mirror:
        with pytest.raises(DownloadFailed, match="does not exist"):
            await store.with_hub(mirrors=[mirror.address]).resolve(REPO)
        assert mirror.requests == []


async def test_when_all_fail_each_reason_is_told(store: Store) -> None:
    store.hub.fail(f"/api/models/{REPO}/revision/main", Fault(status=503, stays=True))
    with pytest.raises(DownloadFailed, match=r"503.*\n.*no connection") as caught:
        await store.with_hub(mirrors=["http://127.0.0.1:1"]).resolve(REPO)
    assert store.hub.address in caught.value.message


@pytest.mark.parametrize(
    "path", ["../x.gguf", "/etc/x.gguf", "a/../../x.gguf", ".hidden/x.gguf", "a\n.gguf", "a//x.gguf"]
)
async def test_a_hub_can_not_lead_out_of_the_folder(store: Store, path: str) -> None:
    store.hub.add_repository(REPO, {path: store.tiny})
    with pytest.raises(BadSource, match="is not put into"):
        await store.resolve(REPO)


@pytest.mark.parametrize("body", [b"<html>", b"[]", b'{"sha": "../x"}', b'{"sha": 7}', b"\xff"])
async def test_what_is_no_hub_is_said(store: Store, body: bytes) -> None:
    store.hub.add_repository(REPO, {})
    store.hub.fail(f"/api/models/{REPO}/revision/main", Fault(body=body))
    with pytest.raises(DownloadFailed, match="does not answer as a model hub does"):
        await store.resolve(REPO)


async def test_no_room_for_all_files_together_is_said_before_the_first(store: Store) -> None:
    store.hub.add_repository(REPO, {"m.gguf": store.tiny})
    tree = store.hub.answers[f"/api/models/{REPO}/tree/{COMMIT}"][0]
    tree[0]["size"] = tree[0]["lfs"]["size"] = 10**18
    with pytest.raises(NoRoom):
        await store.pull(REPO)
    assert not store.hub.asked(f"/{REPO}/resolve/{COMMIT}/m.gguf")


async def test_a_folder_model_brings_what_is_read_of_it_and_no_more(store: Store) -> None:
    store.hub.add_repository("org/tiny", HF)
    pulled = await store.pull("org/tiny")
    assert store.there == [
        f"org/tiny/{name}"
        for name in sorted(
            [
                "config.json", "tokenizer.json", "tokenizer.model", "vocab.txt", "chat_template.jinja",
                "generation_config.json", "model.safetensors", "1_Pooling/config.json",
            ]
        )
    ]  # fmt: skip
    assert pulled.plan.files[-1].target.name == "config.json"  # which makes it a model
    assert await suggested(pulled.plan) == ("tiny", {"engine": "hf", "params": {"model": "org/tiny"}})


async def test_what_runs_code_comes_only_where_that_is_asked_for(store: Store) -> None:
    pickled = {name: data for name, data in HF.items() if not name.endswith(".safetensors")}
    store.hub.add_repository("org/tiny", pickled)
    with pytest.raises(BadSource, match="can run code"):
        await store.resolve("org/tiny")
    plan = await store.resolve("org/tiny", allow_pickle=True, trust_remote_code=True)
    assert {"pytorch_model.bin", "modeling_tiny.py"} <= {file.target.name for file in plan.files}
    params = {"model": "org/tiny", "allowPickle": True, "trustRemoteCode": True}
    assert await suggested(plan) == ("tiny", {"engine": "hf", "params": params})


@pytest.mark.parametrize(
    ("files", "says"), [({"README.md": b""}, "neither GGUF files nor"), ({"config.json": b""}, "holds no weights")]
)
async def test_a_repository_without_a_model_is_said(store: Store, files: dict[str, bytes], says: str) -> None:
    store.hub.add_repository("org/tiny", files)
    with pytest.raises(BadSource, match=says):
        await store.resolve("org/tiny")


async def test_a_small_file_is_held_to_the_name_that_git_gave_it(store: Store) -> None:
    store.hub.add_repository("org/tiny", HF)
    store.hub.fail(f"/org/tiny/resolve/{COMMIT}/tokenizer.json", Fault(body=b"[]"))
    with pytest.raises(DownloadFailed, match="is not the file that the hub lists"):
        await store.pull("org/tiny")
    assert "org/tiny/tokenizer.json" not in store.there
    assert "org/tiny/config.json" not in store.there


async def test_an_address_gives_a_file_and_all_its_parts(store: Store) -> None:
    names = ["m-00001-of-00002.gguf", "m-00002-of-00002.gguf"]
    for number, name in enumerate(names):
        store.hub.files[f"/files/{name}"] = tiny(store, number)
    pulled = await store.pull(store.hub.url("/files/m-00002-of-00002.gguf"))
    assert store.there == names
    assert (pulled.plan.name, pulled.plan.model.name) == ("m", names[0])
    assert (await store.pull(store.hub.url(f"/files/{names[0]}"))).came == 0  # the ETag says so


async def test_an_address_whose_file_changed_is_fetched_again(store: Store) -> None:
    store.hub.files["/m.gguf"] = tiny(store, 1)
    await store.pull(store.hub.url("/m.gguf"))
    store.hub.files["/m.gguf"] = tiny(store, 2)
    assert (await store.pull(store.hub.url("/m.gguf"))).plan.model.read_bytes() == tiny(store, 2)


async def test_what_an_address_gives_must_be_a_gguf_file_and_have_the_digest_that_was_given(store: Store) -> None:
    store.hub.files["/m.gguf"] = b"not a model"
    with pytest.raises(DownloadFailed, match=r"m\.gguf is not a GGUF file; what came was deleted"):
        await store.pull(store.hub.url("/m.gguf"))
    with pytest.raises(DownloadFailed, match="SHA-256"):
        await store.pull(store.hub.url("/m.gguf"), sha256="0" * 64)
    assert store.there == []
    store.hub.files["/m.gguf"] = store.tiny
    assert (await store.pull(store.hub.url("/m.gguf"), sha256=hashlib.sha256(store.tiny).hexdigest())).came


async def test_an_address_that_answers_no_question_beforehand_is_fetched_all_the_same(store: Store) -> None:
    store.hub.files["/m.gguf"] = store.tiny
    store.hub.fail("/m.gguf", Fault(status=501))
    pulled = await store.pull(store.hub.url("/m.gguf"))
    assert pulled.plan.size is None
    assert pulled.came == len(store.tiny)


async def test_an_address_of_nothing_is_said_at_once(store: Store) -> None:
    with pytest.raises(DownloadFailed, match="does not exist"):
        await store.resolve(store.hub.url("/none.gguf"))


@pytest.mark.parametrize(
    ("source", "wishes"),
    [
        ("/models/m.gguf", {"public_only": True}),
        ("https://files.test/m.gguf", {"quant": "Q8_0"}),
        ("org/repo", {"sha256": "0" * 64}),
        ("org/repo", {"name": "a,b"}),
        ("https://files.test/m-00001-of-00002.gguf", {"sha256": "0" * 64}),
    ],
)
async def test_wishes_that_make_no_sense_are_refused(store: Store, source: str, wishes: dict[str, Any]) -> None:
    with pytest.raises(BadSource):
        await resolve(source, store.settings, **wishes)
    assert store.hub.requests == []


async def test_what_is_suggested_is_a_good_entry(store: Store, repository: dict[str, bytes]) -> None:
    name, entry = await suggested((await store.pull(REPO)).plan)
    file = store.settings.storage.models_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({name: entry}))
    assert list(await asyncio.to_thread(read_models_file, file)) == [name]


def damage(path: Path) -> bytes:
    """Another last byte, some time after it came; what it was before."""
    before = path.read_bytes()
    path.write_bytes(before[:-1] + bytes([before[-1] ^ 1]))
    later = path.stat().st_mtime + 10
    os.utime(path, (later, later))
    return before


def list_entry(store: Store, name: str, path: Path) -> None:
    file = store.settings.storage.models_file
    file.parent.mkdir(parents=True, exist_ok=True)
    file.write_text(json.dumps({name: {"params": {"model": str(path.relative_to(store.folder))}}}))


async def test_a_pull_does_not_replace_the_file_of_an_imported_model(store: Store) -> None:
    source = write_all(store.folder.parent / "in", {"m.gguf": tiny(store, 1)}) / "m.gguf"
    imported = await import_file(source, store.settings, name="mine")
    list_entry(store, "mine", imported.plan.model)
    store.hub.files["/m.gguf"] = tiny(store, 2)
    with pytest.raises(BadSource, match=r"m\.gguf is there already, as a file of mine \(from /.*; remove that model"):
        await store.pull(store.hub.url("/m.gguf"))
    assert imported.plan.model.read_bytes() == tiny(store, 1)


async def test_two_addresses_with_one_file_name_are_two_models(store: Store) -> None:
    store.hub.files |= {"/a/m.gguf": tiny(store, 1), "/b/m.gguf": tiny(store, 2)}
    first = await store.pull(store.hub.url("/a/m.gguf"))
    same_tag = Fault(headers={"ETag": f'"{hashlib.sha256(tiny(store, 1)).hexdigest()[:32]}"'})
    for fault in (Fault(), same_tag):
        store.hub.fail("/b/m.gguf", fault)
        with pytest.raises(BadSource, match=r"as a file of a model \(from http.*/a/m\.gguf\)"):
            await store.pull(store.hub.url("/b/m.gguf"))
    assert first.plan.model.read_bytes() == tiny(store, 1)


async def test_another_revision_under_a_name_of_its_own_does_not_replace_the_first(
    store: Store, repository: dict[str, bytes]
) -> None:
    first = (await store.pull(REPO, mmproj=False)).plan
    await asyncio.to_thread(list_entry, store, first.name, first.model)
    changed = {"tiny-Q4_K_M.gguf": tiny(store, 9)}
    store.hub.add_repository(REPO, changed, commit="b" * 40, revision="v2")
    with pytest.raises(BadSource, match=f"as a file of {first.name} .* at c0ffee"):
        await store.pull(f"{REPO}@v2", name="r-v2")
    assert first.model.read_bytes() == repository["tiny-Q4_K_M.gguf"]
    assert (await store.pull(f"{REPO}@v2", name=first.name)).plan.model.read_bytes() == tiny(store, 9)
    assert (await store.pull(f"{REPO}:Q4_K_M")).plan.model.read_bytes() == repository["tiny-Q4_K_M.gguf"]


async def test_a_projector_is_not_replaced_under_another_model_of_the_repository(
    store: Store, repository: dict[str, bytes]
) -> None:
    await store.pull(f"{REPO}:Q8_0")
    changed = {"tiny-Q4_K_M.gguf": tiny(store, 8), "mmproj-tiny-f16.gguf": tiny(store, 9)}
    store.hub.add_repository(REPO, changed, commit="d" * 40)
    with pytest.raises(BadSource, match=r"mmproj-tiny-f16\.gguf is there already"):
        await store.pull(REPO)
    assert (await store.pull(REPO, mmproj=False)).came == len(store.tiny) + 1


async def test_a_bad_answer_leaves_the_model_that_is_there(store: Store) -> None:
    store.hub.files["/m.gguf"] = tiny(store, 1)
    model = (await store.pull(store.hub.url("/m.gguf"))).plan.model
    store.hub.files["/m.gguf"] = b"an error page that calls itself a file"
    with pytest.raises(DownloadFailed, match=r"m\.gguf is not a GGUF file; what came was deleted"):
        await store.pull(store.hub.url("/m.gguf"))
    assert model.read_bytes() == tiny(store, 1)
    assert store.there == ["m.gguf"]


async def test_a_bad_small_file_leaves_the_one_that_is_there(store: Store) -> None:
    store.hub.add_repository("org/tiny", HF)
    folder = (await store.pull("org/tiny")).plan.model
    store.hub.add_repository("org/tiny", {**HF, "tokenizer.json": b'{"new": 1}'}, commit="d" * 40)
    store.hub.fail(f"/org/tiny/resolve/{'d' * 40}/tokenizer.json", Fault(body=b'{"bad": 1}'))
    with pytest.raises(DownloadFailed, match=r"^tokenizer\.json is not the file that the hub lists"):
        await store.pull("org/tiny")
    assert (folder / "tokenizer.json").read_bytes() == HF["tokenizer.json"]


async def test_a_new_commit_that_broke_off_is_gone_on_with_in_its_small_files(store: Store) -> None:
    store.hub.add_repository("org/tiny", HF)
    folder = (await store.pull("org/tiny")).plan.model
    changed = {name: data.replace(b"{}", b"[]") for name, data in HF.items()}
    store.hub.add_repository("org/tiny", changed, commit="d" * 40)
    store.hub.fail(f"/org/tiny/resolve/{'d' * 40}/tokenizer.json", Fault(status=404))
    with pytest.raises(DownloadFailed):
        await store.pull("org/tiny")
    await store.pull("org/tiny")
    assert (folder / "tokenizer.json").read_bytes() == b"[]"


@pytest.mark.parametrize("address", [False, True])
async def test_what_changed_on_the_disk_is_fetched_again(store: Store, address: bool) -> None:
    store.hub.add_repository(REPO, {"m-Q8_0.gguf": store.tiny})
    store.hub.files["/m.gguf"] = store.tiny
    source = store.hub.url("/m.gguf") if address else REPO
    model = (await store.pull(source)).plan.model
    data = damage(model)
    assert [check.state for check in await verify(gguf_entry(model), store.settings)] == ["changed"]
    assert (await store.pull(source)).came == len(data)
    assert [check.state for check in await verify(gguf_entry(model), store.settings)] == ["ok"]


async def test_what_was_only_touched_is_read_and_kept(store: Store, repository: dict[str, bytes]) -> None:
    model = (await store.pull(REPO)).plan.model
    os.utime(model, (2**31, 2**31))
    notes: list[str] = []
    async with store.client() as client:
        plan = await resolve(REPO, store.settings, client=client)
        assert (await pull(plan, store.settings, client=client, note=notes.append)).came == 0
    assert notes == ["reading tiny-Q4_K_M.gguf again: it was changed or touched since it came"]


async def test_what_changed_is_found_though_a_pull_broke_off_in_between(store: Store) -> None:
    names = [f"big-Q4_K_M-0000{number}-of-00002.gguf" for number in (1, 2)]
    store.hub.add_repository(REPO, {name: tiny(store, number) for number, name in enumerate(names)})
    plan = (await store.pull(REPO)).plan
    data = [damage(file.target) for file in plan.files]
    store.hub.fail(f"/{REPO}/resolve/{COMMIT}/{names[1]}", Fault(status=404))
    with pytest.raises(DownloadFailed):
        await store.pull(REPO)
    assert (await store.pull(REPO)).came == len(data[1])
    assert [file.target.read_bytes() for file in plan.files] == data


async def test_pauses_are_told_while_the_hub_is_asked_and_while_files_come(
    store: Store, repository: dict[str, bytes]
) -> None:
    store.hub.fail(f"/api/models/{REPO}/revision/main", Fault(status=429, headers={"Retry-After": "300"}))
    store.hub.fail(f"/{REPO}/resolve/{COMMIT}/tiny-Q4_K_M.gguf", Fault(status=503))
    notes: list[str] = []
    async with store.client() as client:
        plan = await resolve(REPO, store.settings, client=client, note=notes.append)
        assert notes == ["waiting 300 s: the server answered 429 Whatever"]
        await pull(plan, store.settings, client=client, note=notes.append)
    assert notes[1:] == ["waiting 1 s: the server answered 503 Whatever"]


@pytest.mark.parametrize("source", ["org/tiny", "http://127.0.0.1:1/m.gguf"])
async def test_where_nobody_is_there_is_said_after_two_tries(store: Store, source: str) -> None:
    away = store.with_hub(endpoint="http://127.0.0.1:1")
    with pytest.raises(DownloadFailed, match="given up after 2 tries: no connection to 127"):
        await away.resolve(source)
    assert len(away.pauses) == 1


@pytest.mark.parametrize("colon", [False, True])
async def test_a_file_of_another_quantisation_than_asked_for_is_a_mistake(
    store: Store, repository: dict[str, bytes], colon: bool
) -> None:
    file = f"{REPO}/tiny-Q8_0.gguf"
    with pytest.raises(ChoiceNeeded, match=r"tiny-Q8_0\.gguf has no quantisation Q4_K_M"):
        await (store.resolve(f"{file}:Q4_K_M") if colon else store.resolve(file, quant="Q4_K_M"))
    assert (await store.resolve(file, quant="q8_0")).quant == "Q8_0"
