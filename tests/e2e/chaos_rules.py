"""What must hold after a day under duress, whatever happened on it."""

from __future__ import annotations

import math
import re
from collections import Counter
from collections.abc import Iterator
from typing import Final

from tests.e2e.chaos import ASK, CHAT, LENIENT, MODELS, Call, Story

# What a request may wait for its model; what it may take on top of that, and how long nobody should have to wait.
WAIT: Final = 40.0
ANSWER: Final = 30.0
STARVED: Final = 30.0
# A file's change counts this long after it, at most. Of what is cut off the other side hears within the second of
# these; who reads slowly when all before it is read.
SEEN: Final = 5.0
HEARD: Final = 3.0
HEARD_SLOWLY: Final = 15.0
# What the service may have more of at the end.
GROWTH: Final = 30 * 1024**2
FILES_MORE: Final = 4
ANSWERS: Final = 200
# The last request of all, which counts no more.
THE_END: Final = "the-end"

INFERENCE: Final = frozenset({CHAT, LENIENT, ASK})
# What a client may be told, by status. All else is a mistake of the service.
ALLOWED: Final = {
    404: {"model_not_found", "request_not_found"},
    409: {"request_cancelled"},
    429: {"queue_full"},
    502: {"upstream_closed", "upstream_unreachable"},
    503: {"insufficient_memory", "model_load_failed", "model_unloaded"},
}
ACCESS: Final = re.compile(r"ACCESS request=(\S+) key=\S+ (\S+) '\S+' status=(\d+)")


def judge(story: Story, log: str) -> Iterator[str]:
    """What is wrong, of all that can be said at the end."""
    if "metrics" not in story.seen:
        yield "it broke off"
        return
    yield from judge_calls(story)
    yield from judge_served(story)
    yield from judge_requests(story, log)
    yield from judge_models(story, log)
    grown = story.seen["memory_after"] - story.seen["memory_before"]
    if grown > GROWTH:
        yield f"the service grew by {grown / 1024**2:.0f} MiB"
    if story.seen["files"] > FILES_MORE:
        yield f"the service has {story.seen['files']} files open more than at the start"
    if "Traceback" in log:
        yield "there is a traceback in the log"


def judge_calls(story: Story) -> Iterator[str]:
    """Each one got an answer, or an error that it can understand and that had a reason."""
    for call in story.calls:
        said = f"{call.id} at {call.began - story.began:.1f} s: {call.status} {call.code} {call.message} {call.fault}"
        if call.fault:
            yield f"a fault: {said}"
        elif call.left or (call.status in (200, 202) and call.code is None):
            pass
        elif call.route == "/admin/reload" and call.status == 400 and "models.json" in call.message:
            pass  # it is broken just now
        elif not is_allowed(call):
            yield f"no answer to give: {said}"
        elif call.code == "request_cancelled" and not soon_after(call, [story.cancelled.get(call.id, math.inf)]):
            yield f"nobody cancelled it just before: {said}"
        elif call.code == "model_not_found" and not within(call, story.removals):
            yield f"it was not removed: {said}"
        elif call.code in ALLOWED[502] and not soon_after(call, story.kills):
            yield f"nobody killed its process just before: {said}"
        elif "does not fit" in call.message or "fault of" in call.message:
            yield f"a reason that can't be: {said}"
        if call.kind not in ("status", "events") and call.ended - call.began > WAIT + ANSWER:
            yield f"too long: {said}"


def is_allowed(call: Call) -> bool:
    if call.code == "plain":  # the routes of the original don't tell the code
        return call.status in ALLOWED or (call.route == "/loadModel" and call.status == 500)
    codes = ALLOWED.get(call.status or 0, set())
    if call.status == 200:  # in a stream
        codes = set().union(*ALLOWED.values())
    return call.code in codes


def within(call: Call, removals: list[tuple[float, float]]) -> bool:
    """Whether a model was not there at some time of the call."""
    return any(began <= call.ended and call.began <= ended + SEEN for began, ended in removals)


def soon_after(call: Call, times: list[float]) -> bool:
    """Whether it ended soon after one of these."""
    patience = HEARD_SLOWLY if call.kind == "slow" else HEARD
    return any(call.began <= moment <= call.ended <= moment + patience for moment in times)


def judge_served(story: Story) -> Iterator[str]:
    """Much was answered, by every model and to the end, and nobody waited for ever."""
    asked = [call for call in story.calls if call.route in INFERENCE]
    answered = [call for call in asked if call.answered]
    if len(answered) < ANSWERS:
        yield f"only {len(answered)} answers"
    middle = story.began + story.seconds / 2
    for model in MODELS:
        if not any(call.model == model and middle < call.began < story.began + story.seconds for call in answered):
            yield f"{model} was not served in the second half"
    story.seen["longest_wait"] = {
        model: round(max((call.waited for call in answered if call.model == model), default=0.0), 1) for model in MODELS
    }
    if max(story.seen["longest_wait"].values()) > STARVED:
        yield f"somebody starved: {story.seen['longest_wait']}"


def judge_requests(story: Story, log: str) -> Iterator[str]:
    """What was counted is what clients saw; of those that left, one answer at most."""
    lines: dict[str, list[int]] = {}
    for name, _, status in ACCESS.findall(log):
        lines.setdefault(name, []).append(int(status))
    lines.pop(THE_END, None)
    calls = {call.id: call for call in story.calls}
    if lines.keys() - calls.keys():
        yield f"requests that nobody made: {lines.keys() - calls.keys()}"
    expected: Counter[tuple[str, ...]] = Counter()
    for call in story.calls:
        counted = lines.get(call.id, [])
        expected.update((call.method, call.route, str(status)) for status in counted)
        if call.left:
            good = not counted if call.status is None else counted in ([499], [call.status])
            good = good or (call.status is None and len(counted) == 1)
        else:
            good = counted == [call.status]
        if not good:
            yield f"{call.id} saw {call.status}{' and left' if call.left else ''}, counted was {counted}"
    counts = story.seen["metrics"]["llamaherd_http_requests_total"]
    if counts != expected:
        more, less = Counter(counts) - expected, expected - Counter(counts)
        yield f"counted by the metrics but not in the log: {more}, the other way: {less}"
    yield from judge_outcomes(story, lines)
    yield from judge_told(story, lines)


def judge_outcomes(story: Story, lines: dict[str, list[int]]) -> Iterator[str]:
    """Inference by its outcome. What became of those that left is not known, only that it was one thing each."""
    counts: Counter[str] = Counter()
    for (_, outcome), number in story.seen["metrics"]["llamaherd_requests_total"].items():
        counts[outcome] += int(number)
    known: Counter[str] = Counter()
    unknown = 0
    for call in story.calls:
        # An unknown model is refused before anything begins, one that is removed meanwhile later.
        if call.route not in INFERENCE or 404 in [call.status, *lines.get(call.id, ())]:
            continue
        if call.left or call.code == "plain":
            unknown += len(lines.get(call.id, ()))
        else:
            known[outcome_of(call)] += 1
    removed = counts.pop("model_not_found", 0)
    known.pop("model_not_found", None)
    story.seen["outcomes"] = dict(counts)
    if known - counts or (counts - known).total() != unknown:
        yield f"outcomes: counted {counts}, seen {known}, {unknown} left or can't tell, {removed} were removed"


def outcome_of(call: Call) -> str:
    """How the service calls what this client has seen."""
    return "cancelled" if call.code == "request_cancelled" else call.code or "ok"


def judge_told(story: Story, lines: dict[str, list[int]]) -> Iterator[str]:
    """The feed tells of each request once that it began, and once how it ended."""
    events = story.seen["events"]
    if events.kinds["snapshot again"]:  # it has not heard of all
        return
    for call in story.calls:
        counted = lines.get(call.id, [])
        if call.route not in INFERENCE or not counted or 404 in [call.status, *counted]:
            continue
        began, *ended = events.requests.get(call.id, [""])
        good = began == "started" and len(ended) == 1
        if good and not call.left and call.code != "plain":
            good = ended == [outcome_of(call)]
        if not good:
            yield f"{call.id} saw {call.status} {call.code}, the feed told {began} {ended}"
        elif events.heard[call.id] > call.ended + HEARD:
            yield f"{call.id} went on for {events.heard[call.id] - call.ended:.1f} s when its client had left"


def judge_models(story: Story, log: str) -> Iterator[str]:
    """Loads, evictions and failures, as the log, the metrics, /admin/models and the feed tell of them."""
    metrics, events = story.seen["metrics"], story.seen["events"]

    def in_log(pattern: str) -> Counter[str]:
        return Counter(re.findall(rf"model=(\w+) {pattern}", log.split(" draining in_flight")[0]))

    def in_metrics(name: str) -> Counter[str]:
        found: Counter[str] = Counter()
        for (*labels,), number in metrics.get(name, {}).items():
            found[labels[-1] if name.endswith("failures_total") else labels[0]] += int(number)
        return +found

    ready, failed, evicted = in_log(r"state=ready\b"), in_log(r"state=failed\b"), in_log("evicted for=")
    pairs = [
        ("ready", ready, in_metrics("llamaherd_model_load_seconds_count")),
        ("evicted", evicted, in_metrics("llamaherd_model_evictions_total")),
        ("failed", failed, in_metrics("llamaherd_model_failures_total")),
    ]
    if not events.kinds["snapshot again"]:  # else it has not heard of all
        pairs += [
            ("evicted, the feed", evicted, events.evicted),
            ("loads, /admin/models", story.seen["loads"], events.loads),
            ("evictions, /admin/models", story.seen["evictions"], events.evictions),
        ]
    for what, one, other in pairs:
        if +one != +other:
            yield f"{what}: {one}, else {other}"
    if failed.total() > len(story.kills):
        yield f"{failed.total()} failures of {len(story.kills)} kills"
    story.seen["ready"], story.seen["evicted"] = dict(ready), dict(evicted)
