"""Golden chat prompts. Needs: transformers 5.23, jinja2; and SmolLM2 under JANUS_TEST_MODELS.

Templates in the manner of the well-known families (our own words), rendered by transformers; SmolLM2's own
template, rendered and tokenised by transformers.
"""

import json
import os
import pathlib

from transformers import AutoTokenizer
from transformers.utils.chat_template_utils import render_jinja_template

HERE = pathlib.Path(__file__).parent
MODELS = pathlib.Path(os.environ.get("JANUS_TEST_MODELS", pathlib.Path.home() / ".cache/janus-test-models"))

LLAMA3 = """{{- bos_token }}
{%- if tools is not none and tools_in_user_message is not defined %}
    {%- set tools_in_user_message = true %}
{%- endif %}
{%- if messages[0]['role'] == 'system' %}
    {%- set system_message = messages[0]['content']|trim %}
    {%- set messages = messages[1:] %}
{%- else %}
    {%- set system_message = "" %}
{%- endif %}
{{- "<|start_header_id|>system<|end_header_id|>\\n\\n" }}
{%- if builtin_tools is defined or tools is not none %}
    {{- "Environment: ipython\\n" }}
{%- endif %}
{%- if builtin_tools is defined %}
    {{- "Tools: " + builtin_tools | reject('equalto', 'code_interpreter') | join(", ") + "\\n\\n" }}
{%- endif %}
{{- system_message }}
{{- "<|eot_id|>" }}
{%- if tools_in_user_message and not tools is none %}
    {%- if messages | length != 0 %}
        {%- set first_user_message = messages[0]['content']|trim %}
        {%- set messages = messages[1:] %}
    {%- else %}
        {{- raise_exception("There is no first user message to put the tools into") }}
    {%- endif %}
    {{- '<|start_header_id|>user<|end_header_id|>\\n\\n' -}}
    {%- for t in tools %}
        {{- t | tojson(indent=4) }}
        {{- "\\n\\n" }}
    {%- endfor %}
    {{- first_user_message + "<|eot_id|>"}}
{%- endif %}
{%- for message in messages %}
    {%- if not (message.role == 'ipython' or message.role == 'tool' or 'tool_calls' in message) %}
        {{- '<|start_header_id|>' + message['role'] + '<|end_header_id|>\\n\\n'+ message['content'] | trim + '<|eot_id|>' }}
    {%- elif 'tool_calls' in message %}
        {%- if not message.tool_calls|length == 1 %}
            {{- raise_exception("One call at a time, please") }}
        {%- endif %}
        {%- set tool_call = message.tool_calls[0].function %}
        {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' -}}
        {{- '{"name": "' + tool_call.name + '", ' }}
        {{- '"parameters": ' }}
        {{- tool_call.arguments | tojson }}
        {{- "}" }}
        {{- "<|eot_id|>" }}
    {%- elif message.role == "tool" or message.role == "ipython" %}
        {{- "<|start_header_id|>ipython<|end_header_id|>\\n\\n" }}
        {%- if message.content is mapping or message.content is iterable %}
            {{- message.content | tojson }}
        {%- else %}
            {{- message.content }}
        {%- endif %}
        {{- "<|eot_id|>" }}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|start_header_id|>assistant<|end_header_id|>\\n\\n' }}
{%- endif %}
"""

QWEN3 = """{%- if tools %}
    {{- '<|im_start|>system\\n' }}
    {%- if messages[0].role == 'system' %}
        {{- messages[0].content + '\\n\\n' }}
    {%- endif %}
    {{- "# Tools\\n\\nCall them when they help.\\n<tools>" }}
    {%- for tool in tools %}
        {{- "\\n" }}
        {{- tool | tojson }}
    {%- endfor %}
    {{- "\\n</tools><|im_end|>\\n" }}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\\n' + messages[0].content + '<|im_end|>\\n' }}
    {%- endif %}
{%- endif %}
{%- set ns = namespace(multi_step_tool=true, last_query_index=messages|length - 1) %}
{%- for message in messages[::-1] %}
    {%- set index = (messages|length - 1) - loop.index0 %}
    {%- if ns.multi_step_tool and message.role == "user" and message.content is string and not(message.content.startswith('<tool_response>') and message.content.endswith('</tool_response>')) %}
        {%- set ns.multi_step_tool = false %}
        {%- set ns.last_query_index = index %}
    {%- endif %}
{%- endfor %}
{%- for message in messages %}
    {%- if message.content is string %}
        {%- set content = message.content %}
    {%- else %}
        {%- set content = '' %}
    {%- endif %}
    {%- if (message.role == "user") or (message.role == "system" and not loop.first) %}
        {{- '<|im_start|>' + message.role + '\\n' + content + '<|im_end|>' + '\\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\\n').split('<think>')[-1].lstrip('\\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\\n<think>\\n' + reasoning_content.strip('\\n') + '\\n</think>\\n\\n' + content.lstrip('\\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {%- if (loop.first and content) or (not loop.first) %}
                    {{- '\\n' }}
                {%- endif %}
                {%- if tool_call.function %}
                    {%- set tool_call = tool_call.function %}
                {%- endif %}
                {{- '<tool_call>\\n{"name": "' }}
                {{- tool_call.name }}
                {{- '", "arguments": ' }}
                {%- if tool_call.arguments is string %}
                    {{- tool_call.arguments }}
                {%- else %}
                    {{- tool_call.arguments | tojson }}
                {%- endif %}
                {{- '}\\n</tool_call>' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
        {{- '\\n<tool_response>\\n' }}
        {{- content }}
        {{- '\\n</tool_response>' }}
        {%- if loop.last or (messages[loop.index0 + 1].role != "tool") %}
            {{- '<|im_end|>\\n' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\\n\\n</think>\\n\\n' }}
    {%- endif %}
{%- endif %}
"""

GEMMA3 = """{{ bos_token }}
{%- if messages[0]['role'] == 'system' -%}
    {%- if messages[0]['content'] is string -%}
        {%- set first_user_prefix = messages[0]['content'] + '

' -%}
    {%- else -%}
        {%- set first_user_prefix = messages[0]['content'][0]['text'] + '

' -%}
    {%- endif -%}
    {%- set loop_messages = messages[1:] -%}
{%- else -%}
    {%- set first_user_prefix = "" -%}
    {%- set loop_messages = messages -%}
{%- endif -%}
{%- for message in loop_messages -%}
    {%- if (message['role'] == 'user') != (loop.index0 % 2 == 0) -%}
        {{ raise_exception("Turns must alternate: user, assistant, user, ...") }}
    {%- endif -%}
    {%- if (message['role'] == 'assistant') -%}
        {%- set role = "model" -%}
    {%- else -%}
        {%- set role = message['role'] -%}
    {%- endif -%}
    {{ '<start_of_turn>' + role + '
' + (first_user_prefix if loop.first else "") }}
    {%- if message['content'] is string -%}
        {{ message['content'] | trim }}
    {%- elif message['content'] is iterable -%}
        {%- for item in message['content'] -%}
            {%- if item['type'] == 'image' -%}
                {{ '<start_of_image>' }}
            {%- elif item['type'] == 'text' -%}
                {{ item['text'] | trim }}
            {%- endif -%}
        {%- endfor -%}
    {%- else -%}
        {{ raise_exception("Content must be text or a list") }}
    {%- endif -%}
    {{ '<end_of_turn>
' }}
{%- endfor -%}
{%- if add_generation_prompt -%}
    {{ '<start_of_turn>model
' }}
{%- endif -%}
"""

PHI3 = """{% for message in messages %}{% if message['role'] == 'system' and message['content'] %}{{'<|system|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'user' %}{{'<|user|>\\n' + message['content'] + '<|end|>\\n'}}{% elif message['role'] == 'assistant' %}{% generation %}{{'<|assistant|>\\n' + message['content'] + '<|end|>\\n'}}{% endgeneration %}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>\\n' }}{% else %}{{ eos_token }}{% endif %}"""

PHI4 = """{% for message in messages %}{% if message['role'] == 'system' and 'tools' in message and message['tools'] is not none %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|tool|>' + message['tools'] + '<|/tool|>' + '<|end|>' }}{% else %}{{ '<|' + message['role'] + '|>' + message['content'] + '<|end|>' }}{% endif %}{% endfor %}{% if add_generation_prompt %}{{ '<|assistant|>' }}{% else %}{{ eos_token }}{% endif %}"""

MISTRAL = """{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- if not tools is defined %}
    {%- set tools = none %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}
{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the system message, turns must alternate") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}
{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS][" }}
            {%- for tool in tools %}
                {%- set tool = tool.function %}
                {{- '{"type": "function", "function": {' }}
                {%- for key, val in tool.items() if key != "return" %}
                    {%- if val is string %}
                        {{- '"' + key + '": "' + val + '"' }}
                    {%- else %}
                        {{- '"' + key + '": ' + val|tojson }}
                    {%- endif %}
                    {%- if not loop.last %}
                        {{- ", " }}
                    {%- endif %}
                {%- endfor %}
                {{- "}}" }}
                {%- if not loop.last %}
                    {{- ", " }}
                {%- else %}
                    {{- "]" }}
                {%- endif %}
            {%- endfor %}
            {{- "[/AVAILABLE_TOOLS]" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST]" + system_message + "\\n\\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST]" + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" and message.content %}
        {{- message["content"] + eos_token}}
    {%- elif message.tool_calls is defined and message.tool_calls is not none %}
        {{- "[TOOL_CALLS]" + message.tool_calls | map(attribute="function") | map(attribute="name") | join(",") + eos_token }}
    {%- elif message["role"] == "tool" %}
        {{- '[TOOL_RESULTS]{"content": ' + message.content|string + "}[/TOOL_RESULTS]" }}
    {%- else %}
        {{- raise_exception("Roles are user, assistant, system and tool, not " + message.role) }}
    {%- endif %}
{%- endfor %}
"""

# Corners of the language: what prints how, methods, macros, loop controls.
CORNERS = """{%- macro show(name, value=none) -%}
[{{ name }}={{ value }}]
{%- endmacro -%}
{{ show('none') }}{{ show('true', true) }}{{ show('float', 1.0) }}{{ show('int', 7 // 2) }}{{ show('div', 7 / 2) }}
{{ missing }}|{{ messages[0].missing is defined }}|{{ messages[0].get('missing', 'other') }}
{{ messages[0].content.split() }} {{ messages[0].content.split(' ', 1)[-1] }} {{ messages[0].content[:3] }} {{ messages[0].content[-3:] }}
{{ messages[0].content.upper() }} {{ messages[0].content | title }} {{ messages[0].content.replace('a', 'o') }} {{ messages[0].content|length }}
{{ messages[0].content.startswith('b') or messages[0].content.endswith(('s', 't')) }} {{ 'x' * 3 }} {{ 'a' ~ 1 ~ true }}
{{ {'b': [1, 2.5, none, true, 'é<&>\\'"'], 'a': {}} | tojson }} {{ [] | tojson }} {{ 'ü' | tojson(ensure_ascii=true) }}
{{ {'b': 1, 'a': [1, {'c': []}]} | tojson(indent=2) }} {{ {'b': 1, 'a': 2} | tojson(sort_keys=true, separators=(',', ':')) }}
{%- for message in messages %}
    {%- if loop.index0 == 1 %}{% continue %}{% endif %}
    {%- if loop.index0 == 3 %}{% break %}{% endif %}
    {{ loop.index }}/{{ loop.length }}:{{ loop.previtem.role if loop.previtem is defined else '-' }}:{{ message.role }}
{%- else %}
    none
{%- endfor %}
{% set x %}captured {{ messages | length }}{% endset %}{{ x | upper }}
    {% if true %}
    kept indent
    {% endif %}
{% for key, value in messages[0] | items %}{{ key }}={{ value }};{% endfor %}
{{ messages | map(attribute='role') | unique | join('+') }} {{ messages | rejectattr('role', 'equalto', 'user') | list | length }}
{{ ['b', 'a'] | sort | first }} {{ [3, 1] | max }} {{ 'a,b'.split(',') | last }} {{ '  pad '.strip() }}| {{ '%s-%d' | format('n', 4) }}
{{ (1, 2)[0] }} {{ 1 if messages else 0 }} {{ 'yes' if 'rol' in messages[0].role else 'no' }} {{ not messages }} {{ [1, 2] + [3] }}
{{- '\\n' }}{{ 'tail' }}
"""

USER = {"role": "user", "content": "What is the capital of France?"}
SYSTEM = {"role": "system", "content": "Be brief.\nBe kind. "}
ASSISTANT = {"role": "assistant", "content": " Paris.\n"}
AGAIN = {"role": "user", "content": "\n  And of Norway? — 谢谢 👩‍🚀 \"quotes\" <b>&amp;</b>\n"}
THOUGHT = {"role": "assistant", "content": "<think>\nhm, Oslo\n</think>\n\nOslo."}
REASONED = {"role": "assistant", "content": "Oslo.", "reasoning": "It is Oslo."}
CALL = {
    "role": "assistant",
    "content": None,
    "tool_calls": [
        {
            "id": "c1",
            "type": "function",
            "function": {"name": "weather", "arguments": {"city": "Zürich", "days": 3, "x": 0.5, "y": [1, None]}},
        }
    ],
}
RESULT = {"role": "tool", "tool_call_id": "c1", "content": "{\"rain\": true}"}
TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "Tells the weather <now> & later",
        "parameters": {
            "type": "object",
            "properties": {"city": {"type": "string"}, "days": {"type": "integer", "minimum": 1}},
            "required": ["city"],
        },
    },
}
PARTS = {"role": "user", "content": [{"type": "text", "text": " Look: "}, {"type": "image"}]}

CONVERSATIONS = [
    ([USER], {}),
    ([SYSTEM, USER], {}),
    ([SYSTEM, USER, ASSISTANT, AGAIN], {}),
    ([USER, ASSISTANT], {"add_generation_prompt": False}),
    ([USER, THOUGHT, AGAIN], {"enable_thinking": False}),
    ([USER, REASONED], {"add_generation_prompt": False}),
    ([USER, CALL, RESULT], {"tools": [TOOL]}),
    ([SYSTEM, USER], {"tools": [TOOL, TOOL]}),
    ([PARTS], {}),
    ([USER, USER], {}),
    ([{"role": "critic", "content": "no"}], {}),
    ([USER], {"builtin_tools": ["brave", "code_interpreter"]}),
]
TEMPLATES = {
    "llama3": (LLAMA3, "<|begin_of_text|>", "<|eot_id|>"),
    "qwen3": (QWEN3, None, "<|im_end|>"),
    "gemma3": (GEMMA3, "<bos>", "<end_of_turn>"),
    "phi3": (PHI3, None, "<|endoftext|>"),
    "phi4": (PHI4, None, "<|endoftext|>"),
    "mistral": (MISTRAL, "<s>", "</s>"),
}


def rendered(template, messages, options, tokens):
    options = {"add_generation_prompt": True, **tokens, **options}
    try:
        return {"text": render_jinja_template([messages], chat_template=template, **options)[0][0]}
    except Exception as error:
        # The words of a refusal are the template's; those of other errors are the library's own.
        refusal = "raise_exception(\"" + str(error) in template or "not " in str(error) and "Roles are" in str(error)
        return {"error": str(error) if refusal else None}


def templates():
    found = []
    for name, (template, bos, eos) in TEMPLATES.items():
        tokens = {key: value for key, value in (("bos_token", bos), ("eos_token", eos)) if value}
        cases = [
            {"messages": messages, "options": options, **rendered(template, messages, options, tokens)}
            for messages, options in CONVERSATIONS
        ]
        found.append({"name": name, "template": template, "tokens": tokens, "cases": cases})
    messages = [{"role": "user", "content": "bananas are sweet"}, ASSISTANT, AGAIN, ASSISTANT, USER]
    case = {"messages": messages, "options": {}, **rendered(CORNERS, messages, {}, {})}
    assert "text" in case, case
    found.append({"name": "corners", "template": CORNERS, "tokens": {}, "cases": [case]})
    return found


def smollm2():
    tokenizer = AutoTokenizer.from_pretrained(
        MODELS / "smollm2-135m-instruct", gguf_file="SmolLM2-135M-Instruct.Q4_1.gguf"
    )
    cases = []
    for messages, options in CONVERSATIONS[:4]:
        options = {"add_generation_prompt": True, **options}
        ids = tokenizer.apply_chat_template(messages, tokenize=True, return_dict=False, **options)
        text = tokenizer.apply_chat_template(messages, tokenize=False, **options)
        cases.append({"messages": messages, "options": options, "text": text, "ids": ids})
    return cases


if __name__ == "__main__":
    with open(HERE / "prompts.json", "w", encoding="utf-8") as file:
        json.dump({"templates": templates(), "smollm2": smollm2()}, file, ensure_ascii=False, indent=1)
        file.write("\n")
