//! Templates as the model repositories have them; expectations are what Jinja2 3.1.6 writes in
//! the environment of transformers.

use super::*;

const QWEN2: &str = r#"{% for message in messages %}{% if loop.first and messages[0]['role'] != 'system' %}{{ '<|im_start|>system
You are a helpful assistant.<|im_end|>
' }}{% endif %}{{'<|im_start|>' + message['role'] + '
' + message['content'] + '<|im_end|>' + '
'}}{% endfor %}{% if add_generation_prompt %}{{ '<|im_start|>assistant
' }}{% endif %}"#;

const MIXTRAL: &str = r#"{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}"#;

/// Mixtral's second template, without its tools.
const MIXTRAL_NAMESPACE: &str = r#"{%- if messages[0]["role"] == "system" %}
    {%- set system_message = messages[0]["content"] %}
    {%- set loop_messages = messages[1:] %}
{%- else %}
    {%- set loop_messages = messages %}
{%- endif %}
{%- set user_messages = loop_messages | selectattr("role", "equalto", "user") | list %}

{%- set ns = namespace() %}
{%- set ns.index = 0 %}
{%- for message in loop_messages %}
    {%- if not (message.role == "tool" or message.role == "tool_results" or (message.tool_calls is defined and message.tool_calls is not none)) %}
        {%- if (message["role"] == "user") != (ns.index % 2 == 0) %}
            {{- raise_exception("After the optional system message, conversation roles must alternate user/assistant/user/assistant/...") }}
        {%- endif %}
        {%- set ns.index = ns.index + 1 %}
    {%- endif %}
{%- endfor %}

{{- bos_token }}
{%- for message in loop_messages %}
    {%- if message["role"] == "user" %}
        {%- if tools is not none and (message == user_messages[-1]) %}
            {{- "[AVAILABLE_TOOLS] [" }}
        {%- endif %}
        {%- if loop.last and system_message is defined %}
            {{- "[INST] " + system_message + "\n\n" + message["content"] + "[/INST]" }}
        {%- else %}
            {{- "[INST] " + message["content"] + "[/INST]" }}
        {%- endif %}
    {%- elif message["role"] == "assistant" %}
        {{- " " + message["content"]|trim + eos_token}}
    {%- else %}
        {{- raise_exception("Only user and assistant roles are supported, with the exception of an initial optional system message!") }}
    {%- endif %}
{%- endfor %}
"#;

const OLMOE: &str = r#"{{ bos_token }}{% for message in messages %}
{% if message['role'] == 'system' %}
{{ '<|system|>
' + message['content'] }}
{% elif message['role'] == 'user' %}
{{ '<|user|>
' + message['content'] }}
{% elif message['role'] == 'assistant' %}
{{ '<|assistant|>
'  + message['content'] + eos_token }}
{% endif %}
{% if loop.last and add_generation_prompt %}
{{ '<|assistant|>' }}
{% endif %}
{% endfor %}
"#;

const QWEN3: &str = r#"{%- if tools %}
    {{- '<|im_start|>system\n' }}
    {%- for tool in tools %}
        {{- "\n" }}
        {{- tool | tojson }}
    {%- endfor %}
{%- else %}
    {%- if messages[0].role == 'system' %}
        {{- '<|im_start|>system\n' + messages[0].content + '<|im_end|>\n' }}
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
        {{- '<|im_start|>' + message.role + '\n' + content + '<|im_end|>' + '\n' }}
    {%- elif message.role == "assistant" %}
        {%- set reasoning_content = '' %}
        {%- if message.reasoning_content is string %}
            {%- set reasoning_content = message.reasoning_content %}
        {%- else %}
            {%- if '</think>' in content %}
                {%- set reasoning_content = content.split('</think>')[0].rstrip('\n').split('<think>')[-1].lstrip('\n') %}
                {%- set content = content.split('</think>')[-1].lstrip('\n') %}
            {%- endif %}
        {%- endif %}
        {%- if loop.index0 > ns.last_query_index %}
            {%- if loop.last or (not loop.last and reasoning_content) %}
                {{- '<|im_start|>' + message.role + '\n<think>\n' + reasoning_content.strip('\n') + '\n</think>\n\n' + content.lstrip('\n') }}
            {%- else %}
                {{- '<|im_start|>' + message.role + '\n' + content }}
            {%- endif %}
        {%- else %}
            {{- '<|im_start|>' + message.role + '\n' + content }}
        {%- endif %}
        {%- if message.tool_calls %}
            {%- for tool_call in message.tool_calls %}
                {{- '\n<tool_call>\n' }}
            {%- endfor %}
        {%- endif %}
        {{- '<|im_end|>\n' }}
    {%- elif message.role == "tool" %}
        {%- if loop.first or (messages[loop.index0 - 1].role != "tool") %}
            {{- '<|im_start|>user' }}
        {%- endif %}
    {%- endif %}
{%- endfor %}
{%- if add_generation_prompt %}
    {{- '<|im_start|>assistant\n' }}
    {%- if enable_thinking is defined and enable_thinking is false %}
        {{- '<think>\n\n</think>\n\n' }}
    {%- endif %}
{%- endif %}"#;

/// Everything templates are known to use that is not in the ones above.
const CORNERS: &str = r#"{%- macro say(word, times=2) -%}
{%- for i in range(times) -%}{{ word }}{%- endfor -%}
{%- endmacro -%}
{{ say('ho') }}
  {% if true %}
kept
  {% endif %}
{% for i in [1, 2, 3, 4] %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 4 %}{% break %}{% endif %}{{ i }}{% endfor %}

{{ nothing }}|{% for i in nothing %}{{ i }}{% endfor %}|{{ nothing is defined }}|{{ nothing|default('d') }}
{{ {'b': [1, 2.5, none, true], 'a': "<é'&>"} | tojson }}
{{ {'b': {}, 'a': ["x", []]} | tojson(indent=2) }}
{{ "é😀" | tojson(ensure_ascii=true) }} {{ {'b': 1, 'a': [1, 2]} | tojson(separators=(',', ':'), sort_keys=true) }}
{% for key, value in {'x': 1, 'y': 2}.items() %}{{ key }}={{ value }};{% endfor %}
{{ 'a b'.split() | join('+') }} {{ ' t '.strip() }} {{ 'up'.upper() }} {{ 'the cat'.title() }} {{ {'k': 1}.get('z', 'none') }}
{{ messages[-1]['content'][1:3] }} {{ messages | map(attribute='role') | join(',') }} {{ "%s-%d" | format('n', 3) }}
{{ 7 // 2 }} {{ 'a' ~ 1 }} {{ 'x' if false }} {{ true }} {{ none }} {{ 'ok' if messages is iterable and messages is not string }}
{% generation %}words{% endgeneration %}
{#- a comment -#}
{% set text %}block{% endset %}{{ text }}
"#;

fn tokenizer_config() -> Config {
    Config::parse(
        "tokenizer_config.json",
        r#"{"bos_token": {"content": "<s>", "lstrip": false}, "eos_token": "</s>", "pad_token": null}"#,
    )
    .unwrap()
}

fn template(text: &str) -> ChatTemplate {
    ChatTemplate::new(text, Some(&tokenizer_config())).unwrap()
}

fn conversation(turns: &[[&str; 2]]) -> Vec<Message> {
    turns.iter().map(|[role, content]| message(role, content)).collect()
}

fn message(role: &str, content: &str) -> Message {
    Message { role: role.into(), content: content.into() }
}

const TURNS: [[&str; 2]; 3] =
    [["user", "Hi <there> & \"you\""], ["assistant", " Hello! "], ["user", "Bye\n"]];

const WITH_SYSTEM: [[&str; 2]; 4] = [["system", "Be brief."], TURNS[0], TURNS[1], TURNS[2]];

#[track_caller]
fn check(text: &str, turns: &[[&str; 2]], add_generation_prompt: bool, expected: &str) {
    let rendered = template(text).render(&conversation(turns), add_generation_prompt).unwrap();
    assert_eq!(rendered, expected);
}

#[track_caller]
fn check_refused(text: &str, turns: &[[&str; 2]], expected: &str) {
    let refused = ChatTemplate::new(text, Some(&tokenizer_config()))
        .and_then(|template| template.render(&conversation(turns), true));
    assert_eq!(refused.unwrap_err().to_string(), expected);
}

// TESTS
