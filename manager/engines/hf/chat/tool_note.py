"""What a model is told of tools where its chat template has no place for them."""

from __future__ import annotations

import json

from manager.engines.hf.chat.tool_fields import ToolRequest

_NOTE = """You can call functions. Each line in <tools></tools> describes one, with its parameters as a JSON schema:
<tools>
{tools}
</tools>
To call a function, write its name and its arguments as JSON between <tool_call> and </tool_call>, in this form:
<tool_call>
{{"name": "the name", "arguments": {{"a parameter": "its value"}}}}
</tool_call>
Its result comes between <tool_response> and </tool_response>. {when}"""


def tool_note(request: ToolRequest) -> str:
    tools = "\n".join(json.dumps(dict(tool["function"]), ensure_ascii=False) for tool in request.tools)
    if request.only is not None:
        when = f"Now call {request.only}."
    elif request.must:
        when = "Now call the function that fits best."
    else:
        when = "Call one only where the answer needs it; else answer in words."
    return _NOTE.format(tools=tools, when=when)
