"""Every route: how it is reached, what it asks of its caller, and what comes and goes."""

from __future__ import annotations

from typing import Final

from routes import (
    activity,
    admin,
    anthropic,
    audio,
    chat,
    docs,
    events,
    inner,
    keys,
    logs,
    models,
    models_file,
    ollama,
    openai,
    openapi,
    probe,
    pulls,
    responses,
    settings,
    status,
    straight,
    usage,
    web_app,
)
from routes.anthropic.answer import MessageAnswer, TokenCount
from routes.anthropic.request import CountRequest, MessageRequest
from routes.anthropic.stream import StreamEvent
from routes.audio import SpeechBody
from routes.callers import ANY
from routes.errors import anthropic_error, plain_error
from routes.middleware import Access
from routes.ollama import asked, shapes
from routes.ranking import RerankBody
from routes.responses.request import ResponseRequest
from routes.responses.schema import InputTokens as ResponseTokens
from routes.responses.schema import Response, ResponseEvent
from routes.route import FILE, FORM, HTML, JSON, LINES, TEXT, Route
from routes.schema.activity import (
    CaptureState,
    CaptureSwitch,
    EndedRequestDetails,
    EndedRequests,
    Forgotten,
    HistoryQuery,
    Samples,
    SamplesQuery,
)
from routes.schema.admin import (
    AdminLoadRequest,
    AdminModel,
    AdminModelDetails,
    AdminModels,
    Cancelled,
    EventsQuery,
    FeedEvent,
    LogEvent,
    LogsQuery,
    Reloaded,
    RunningRequests,
    ServiceLogEvent,
    ServiceLogsQuery,
    UsageQuery,
    UsageReport,
    WaitQuery,
)
from routes.schema.chat import (
    ChatChunk,
    ChatCompletion,
    ChatCompletionWithResponses,
    ChatRequest,
    InputTokens,
    Prompt,
)
from routes.schema.completion import (
    Completion,
    CompletionRequest,
    DetokenizeRequest,
    Embeddings,
    EmbeddingsRequest,
    Text,
    TokenizeRequest,
    Tokens,
)
from routes.schema.engines import (
    Infilled,
    Props,
    PropsQuery,
    Ranks,
    Transcription,
    TranscriptionEvent,
    TranscriptionForm,
)
from routes.schema.keys import Caller, Key, KeyChange, KeyRequest, KeyRotation, Keys, MadeKey
from routes.schema.models import (
    Asked,
    AskedFragment,
    AskQuery,
    Health,
    Loaded,
    LoadedModels,
    LoadRequest,
    Model,
    ModelList,
    ModelsHealth,
    RecordedErrors,
    ServiceState,
    Unloaded,
    UnloadQuery,
)
from routes.schema.models_file import (
    ModelsFile,
    ModelsFileChange,
    ModelsFileMistakes,
    ModelsFileSchema,
    ModelsFileText,
)
from routes.schema.pulls import PullList, PullObject, PullQuery, PullRequest, StreamQuery
from routes.schema.settings import ShownSettings
from routes.straight import InfillBody

OPEN: Final = Access(scope=None)
PAGE: Final = Access(scope=None, linked=True)
CALLER: Final = Access(scope=ANY)
INFERENCE: Final = Access(scope="inference")
MODEL: Final = Access(scope="inference", metered=True)
ADMIN: Final = Access(scope="admin")
ACTION: Final = Access(scope="admin", audited=True)
# Routes of the original: their errors are {"error": "text"}.
ORIGINAL: Final = Access(scope="inference", errors=plain_error)
ORIGINAL_MODEL: Final = Access(scope="inference", errors=plain_error, metered=True)
ORIGINAL_ACTION: Final = Access(scope="admin", errors=plain_error, audited=True)
ANTHROPIC: Final = Access(scope="inference", errors=anthropic_error)
ANTHROPIC_MODEL: Final = Access(scope="inference", errors=anthropic_error, metered=True)
OLLAMA: Final = Access(scope="inference", errors=plain_error)
OLLAMA_MODEL: Final = Access(scope="inference", errors=plain_error, metered=True)
OLLAMA_ACTION: Final = Access(scope="admin", errors=plain_error, audited=True)

ROUTES: Final[tuple[Route, ...]] = (
    Route("GET", "/", web_app.page, PAGE, gives=FILE),
    Route("GET", "/assets/{name}", web_app.asset, OPEN, gives=FILE),
    Route("GET", "/icon.svg", web_app.icon, OPEN, gives=FILE),
    Route("GET", "/manifest.webmanifest", web_app.manifest, OPEN, gives=FILE),
    Route("GET", "/licenses.md", web_app.licenses, OPEN, gives=FILE),
    Route("GET", "/ping", probe.ping, OPEN, gives=TEXT),
    Route("GET", "/health", probe.health, OPEN, gives=Health),
    Route("GET", "/v1/health", probe.models_health, INFERENCE, gives=ModelsHealth),
    Route("GET", "/metrics", probe.metrics, ADMIN, gives=TEXT),
    Route("GET", "/openapi.json", openapi.openapi_json, OPEN, gives=JSON),
    Route("GET", "/docs", docs.swagger, PAGE, gives=HTML),
    Route("GET", "/docs/{asset}", docs.asset, OPEN, gives=FILE),
    Route("GET", "/redoc", docs.redoc, PAGE, gives=HTML),
    Route("GET", "/status", status.status, ORIGINAL, streams=ServiceState),
    Route("GET", "/models", models.loaded_models, ORIGINAL, gives=LoadedModels),
    Route("POST", "/loadModel", models.load_model, ORIGINAL_ACTION, LoadRequest, Loaded),
    Route("GET", "/unloadModel", models.unload_model, ORIGINAL_ACTION, gives=Unloaded, query=UnloadQuery),
    Route("POST", "/unloadModel", models.unload_model, ORIGINAL_ACTION, gives=Unloaded, query=UnloadQuery),
    Route("POST", "/chat/completions", chat.completions, MODEL, ChatRequest, ChatCompletionWithResponses, ChatChunk),
    Route("GET", "/chat/errors", chat.errors, ORIGINAL, gives=RecordedErrors),
    Route("GET", "/chat/ask", chat.ask, ORIGINAL_MODEL, gives=Asked, streams=AskedFragment, query=AskQuery),
    Route("GET", "/v1/key", keys.show_caller, CALLER, gives=Caller),
    Route("GET", "/v1/models", models.list_models, INFERENCE, gives=ModelList),
    Route("GET", "/v1/models/{id:.+}", models.show_model, INFERENCE, gives=Model),
    Route("POST", "/v1/chat/completions", openai.chat_completions, MODEL, ChatRequest, ChatCompletion, ChatChunk),
    Route("POST", "/v1/chat/completions/input_tokens", openai.input_tokens, MODEL, ChatRequest, InputTokens),
    Route("POST", "/v1/completions", straight.completions, MODEL, CompletionRequest, Completion, Completion),
    Route("POST", "/v1/embeddings", straight.embeddings, MODEL, EmbeddingsRequest, Embeddings),
    Route("POST", "/v1/responses", responses.create, MODEL, ResponseRequest, Response, ResponseEvent),
    Route("POST", "/v1/responses/input_tokens", responses.count_input, MODEL, ResponseRequest, ResponseTokens),
    Route(
        "POST", "/v1/messages", anthropic.create_message, ANTHROPIC_MODEL, MessageRequest, MessageAnswer, StreamEvent
    ),
    Route("POST", "/v1/messages/count_tokens", anthropic.count_tokens, ANTHROPIC_MODEL, CountRequest, TokenCount),
    Route("POST", "/v1/rerank", straight.rerank, MODEL, RerankBody, Ranks),
    Route("POST", "/v1/reranking", straight.rerank, MODEL, RerankBody, Ranks),
    Route("POST", "/rerank", straight.rerank, MODEL, RerankBody, Ranks),
    Route(
        *("POST", "/v1/audio/transcriptions", audio.transcriptions, MODEL),
        *(TranscriptionForm, Transcription, TranscriptionEvent),
        body_type=FORM,
    ),
    Route("POST", "/v1/audio/speech", audio.speech, MODEL, SpeechBody, FILE),
    Route("POST", "/infill", straight.infill, MODEL, InfillBody, Infilled, Infilled),
    Route("POST", "/tokenize", straight.tokenize, MODEL, TokenizeRequest, Tokens),
    Route("POST", "/detokenize", straight.detokenize, MODEL, DetokenizeRequest, Text),
    Route("POST", "/apply-template", openai.apply_template, MODEL, ChatRequest, Prompt),
    Route("GET", "/props", inner.props, INFERENCE, gives=Props, query=PropsQuery),
    Route("GET", "/api/version", ollama.version, OLLAMA, gives=shapes.Version),
    Route("GET", "/api/tags", ollama.tags, OLLAMA, gives=shapes.ModelList),
    Route("GET", "/api/ps", ollama.ps, OLLAMA, gives=shapes.RunningList),
    Route("POST", "/api/show", ollama.show, OLLAMA, asked.ShowRequest, shapes.ShownModel),
    Route(
        *("POST", "/api/chat", ollama.chat, OLLAMA_MODEL, asked.ChatRequest, shapes.ChatAnswer, shapes.ChatAnswer),
        stream_type=LINES,
    ),
    Route(
        *("POST", "/api/generate", ollama.generate, OLLAMA_MODEL),
        *(asked.GenerateRequest, shapes.GenerateAnswer, shapes.GenerateAnswer),
        stream_type=LINES,
    ),
    Route("POST", "/api/embed", ollama.embed, OLLAMA_MODEL, asked.EmbedRequest, shapes.EmbedAnswer),
    Route("POST", "/api/embeddings", ollama.embeddings, OLLAMA_MODEL, asked.EmbeddingsRequest, shapes.EmbeddingsAnswer),
    Route(
        *("POST", "/api/pull", ollama.pull, OLLAMA_ACTION, asked.PullRequest, shapes.PullLine, shapes.PullLine),
        stream_type=LINES,
    ),
    Route("GET", "/admin/models", admin.list_models, ADMIN, gives=AdminModels),
    Route("GET", "/admin/models/{id:.+?}/logs", logs.logs, ADMIN, gives=TEXT, streams=LogEvent, query=LogsQuery),
    Route(
        *("POST", "/admin/models/{id:.+?}/load", admin.load_model, ACTION, AdminLoadRequest, AdminModel),
        query=WaitQuery,
        body_optional=True,
        later=True,
    ),
    Route(
        *("POST", "/admin/models/{id:.+?}/unload", admin.unload_model, ACTION),
        gives=AdminModel,
        query=WaitQuery,
        later=True,
    ),
    Route(
        *("POST", "/admin/models/pull", pulls.start_pull, ACTION, PullRequest, PullObject, PullObject),
        query=PullQuery,
        later=True,
    ),
    Route("POST", "/admin/models/{id:.+?}/pin", models_file.pin_model, ACTION, gives=AdminModel, conflicts=True),
    Route("POST", "/admin/models/{id:.+?}/unpin", models_file.unpin_model, ACTION, gives=AdminModel, conflicts=True),
    Route("GET", "/admin/models/{id:.+}", admin.show_model, ADMIN, gives=AdminModelDetails),
    Route("GET", "/admin/models-file", models_file.show_file, ADMIN, gives=ModelsFile, conflicts=True),
    Route(
        *("PUT", "/admin/models-file", models_file.replace_file, ACTION, ModelsFileChange, ModelsFile),
        conflicts=True,
    ),
    Route(
        *("POST", "/admin/models-file/check", models_file.check_file, ADMIN, ModelsFileText, ModelsFileMistakes),
    ),
    Route("GET", "/admin/models-file/schema", models_file.show_schema, ADMIN, gives=ModelsFileSchema),
    Route("GET", "/admin/pulls", pulls.list_pulls, ADMIN, gives=PullList),
    Route("GET", "/admin/pulls/{id}", pulls.show_pull, ADMIN, gives=PullObject, streams=PullObject, query=StreamQuery),
    Route("DELETE", "/admin/pulls/{id}", pulls.cancel_pull, ACTION, gives=PullObject),
    Route("GET", "/admin/requests", admin.list_requests, ADMIN, gives=RunningRequests),
    Route("GET", "/admin/requests/history", activity.list_history, ADMIN, gives=EndedRequests, query=HistoryQuery),
    Route("GET", "/admin/requests/history/{n}", activity.show_ended, ADMIN, gives=EndedRequestDetails),
    Route("DELETE", "/admin/requests/history", activity.forget_history, ACTION, gives=Forgotten),
    Route("DELETE", "/admin/requests/{id}", admin.cancel_request, ACTION, gives=Cancelled),
    Route("POST", "/admin/requests/{id}/cancel", admin.cancel_request, ACTION, gives=Cancelled),
    Route("GET", "/admin/capture", activity.show_capture, ADMIN, gives=CaptureState),
    Route("PUT", "/admin/capture", activity.switch_capture, ACTION, CaptureSwitch, CaptureState),
    Route("GET", "/admin/samples", activity.list_samples, ADMIN, gives=Samples, query=SamplesQuery),
    Route("GET", "/admin/events", events.events, ADMIN, streams=FeedEvent, query=EventsQuery),
    Route("GET", "/admin/logs", logs.service_logs, ADMIN, gives=TEXT, streams=ServiceLogEvent, query=ServiceLogsQuery),
    Route("POST", "/admin/reload", admin.reload, ACTION, gives=Reloaded),
    Route("GET", "/admin/keys", keys.list_keys, ADMIN, gives=Keys),
    Route("POST", "/admin/keys", keys.create_key, ACTION, KeyRequest, MadeKey, creates=True),
    Route("GET", "/admin/keys/{id}", keys.show_key, ADMIN, gives=Key),
    Route("PATCH", "/admin/keys/{id}", keys.change_key, ACTION, KeyChange, Key, conflicts=True),
    Route("DELETE", "/admin/keys/{id}", keys.revoke_key, ACTION, gives=Key, conflicts=True),
    Route(
        *("POST", "/admin/keys/{id}/rotate", keys.rotate_key, ACTION, KeyRotation, MadeKey),
        body_optional=True,
    ),
    Route("GET", "/admin/settings", settings.show_settings, ADMIN, gives=ShownSettings),
    Route("GET", "/admin/usage", usage.usage, ADMIN, gives=UsageReport, query=UsageQuery),
    Route("GET", "/upstream/{id:.+?}/{path:.*}", inner.upstream, ADMIN),
    Route("POST", "/upstream/{id:.+?}/{path:.*}", inner.upstream, ACTION),
)
