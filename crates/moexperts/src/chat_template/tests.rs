//! Templates as the model repositories have them; expectations are what Jinja2 3.1.6 writes in
//! the environment of transformers.

use std::sync::Arc;

use super::*;
use crate::{checkpoint::Checkpoint, config::Config, warnings::Warnings};

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

fn special_tokens(config: &Config) -> SpecialTokens {
    SpecialTokens::read(Some(config), None, &mut Warnings::default()).unwrap()
}

fn options(add_generation_prompt: bool) -> ChatOptions {
    ChatOptions::new().add_generation_prompt(add_generation_prompt)
}

fn template(text: &str) -> ChatTemplate {
    ChatTemplate::new(text, &special_tokens(&tokenizer_config())).unwrap()
}

fn conversation(turns: &[[&str; 2]]) -> Vec<Message> {
    turns.iter().map(|[role, content]| message(role, content)).collect()
}

fn message(role: &str, content: &str) -> Message {
    Message::text(role, content)
}

const TURNS: [[&str; 2]; 3] =
    [["user", "Hi <there> & \"you\""], ["assistant", " Hello! "], ["user", "Bye\n"]];

const THINKING: [[&str; 2]; 4] = [
    ["user", "2+2?"],
    ["assistant", "<think>\nfour\n</think>\n\n4"],
    ["user", "Sure?"],
    ["assistant", "<think>\nyes\n</think>\n\nYes."],
];

const WITH_SYSTEM: [[&str; 2]; 4] = [["system", "Be brief."], TURNS[0], TURNS[1], TURNS[2]];

#[track_caller]
fn check(text: &str, turns: &[[&str; 2]], add_generation_prompt: bool, expected: &str) {
    let rendered =
        template(text).render(&conversation(turns), &options(add_generation_prompt)).unwrap();
    assert_eq!(rendered, expected);
}

#[track_caller]
fn check_refused(text: &str, turns: &[[&str; 2]], expected: &str) {
    let refused = ChatTemplate::new(text, &special_tokens(&tokenizer_config()))
        .and_then(|template| template.render(&conversation(turns), &options(true)));
    assert_eq!(refused.unwrap_err().to_string(), expected);
}

#[test]
fn qwen2_gets_a_system_message_where_there_is_none() {
    check(
        QWEN2,
        &TURNS,
        true,
        concat!(
            "<|im_start|>system\nYou are a helpful assistant.<|im_end|>\n",
            "<|im_start|>user\nHi <there> & \"you\"<|im_end|>\n",
            "<|im_start|>assistant\n Hello! <|im_end|>\n<|im_start|>user\nBye\n",
            "<|im_end|>\n<|im_start|>assistant\n"
        ),
    );
    check(
        QWEN2,
        &WITH_SYSTEM,
        false,
        concat!(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n",
            "Hi <there> & \"you\"<|im_end|>\n<|im_start|>assistant\n",
            " Hello! <|im_end|>\n<|im_start|>user\nBye\n<|im_end|>\n"
        ),
    );
}

#[test]
fn mixtral() {
    check(
        MIXTRAL,
        &TURNS,
        true,
        "<s>[INST] Hi <there> & \"you\" [/INST] Hello! </s>[INST] Bye\n [/INST]",
    );
    check(
        MIXTRAL_NAMESPACE,
        &TURNS,
        false,
        "<s>[INST] Hi <there> & \"you\"[/INST] Hello!</s>[INST] Bye\n[/INST]",
    );
    check(
        MIXTRAL_NAMESPACE,
        &WITH_SYSTEM,
        true,
        concat!(
            "<s>[INST] Hi <there> & \"you\"[/INST] Hello!</s>[INST] Be brief.\n\n",
            "Bye\n[/INST]"
        ),
    );
}

#[test]
fn olmoe() {
    check(
        OLMOE,
        &TURNS,
        true,
        concat!(
            "<s><|user|>\nHi <there> & \"you\"\n<|assistant|>\n Hello! </s>\n",
            "<|user|>\nBye\n\n<|assistant|>\n"
        ),
    );
    check(
        OLMOE,
        &WITH_SYSTEM,
        false,
        concat!(
            "<s><|system|>\nBe brief.\n<|user|>\nHi <there> & \"you\"\n",
            "<|assistant|>\n Hello! </s>\n<|user|>\nBye\n\n"
        ),
    );
}

#[test]
fn qwen3_drops_earlier_thoughts() {
    check(
        QWEN3,
        &WITH_SYSTEM,
        true,
        concat!(
            "<|im_start|>system\nBe brief.<|im_end|>\n<|im_start|>user\n",
            "Hi <there> & \"you\"<|im_end|>\n<|im_start|>assistant\n",
            " Hello! <|im_end|>\n<|im_start|>user\nBye\n<|im_end|>\n",
            "<|im_start|>assistant\n"
        ),
    );
    check(
        QWEN3,
        &THINKING,
        false,
        concat!(
            "<|im_start|>user\n2+2?<|im_end|>\n<|im_start|>assistant\n4<|im_end|>\n",
            "<|im_start|>user\nSure?<|im_end|>\n<|im_start|>assistant\n<think>\n",
            "yes\n</think>\n\nYes.<|im_end|>\n"
        ),
    );
}

#[test]
fn every_corner_of_jinja_that_templates_use() {
    check(
        CORNERS,
        &TURNS,
        false,
        concat!(
            "hoho\nkept\n13\n||False|d\n",
            "{\"b\": [1, 2.5, null, true], \"a\": \"<é'&>\"}\n{\n  \"b\": {},\n",
            "  \"a\": [\n    \"x\",\n    []\n  ]\n}\n",
            "\"\\u00e9\\ud83d\\ude00\" {\"a\":[1,2],\"b\":1}\n",
            "x=1;y=2;a+b t UP The Cat none\nye user,assistant,user n-3\n",
            "3 a1  True None ok\nwordsblock"
        ),
    );
}

#[test]
fn a_refusal_is_passed_on_in_the_words_of_the_template() {
    check_refused(
        MIXTRAL,
        &WITH_SYSTEM,
        "chat_template: line 1: Conversation roles must alternate \
         user/assistant/user/assistant/...",
    );
    check_refused(
        MIXTRAL_NAMESPACE,
        &[TURNS[0], TURNS[0]],
        "chat_template: line 14: After the optional system message, conversation roles must \
         alternate user/assistant/user/assistant/...",
    );
}

#[test]
fn a_broken_template_is_refused_with_its_line() {
    for (text, problem) in [
        ("one\n{% if %}", "line 2: unexpected end of the tag, expected an expression"),
        ("{{ x", "line 1: unexpected end of the template, expected `}}`"),
        ("{% generation", "line 1: unexpected end of the template, expected `%}`"),
        ("\n\n{{ nothing.there }}", "line 3: the attribute `there` of a value that is undefined"),
        ("{{ messages|unheard }}", "line 1: filter unheard is unknown"),
        ("{{ messages|tojson(colour=1) }}", "line 1: unknown keyword argument 'colour'"),
        ("{{ [1]|tojson(separators=[',']) }}", "line 1: tojson: separators must be two texts"),
    ] {
        check_refused(text, &TURNS, &format!("chat_template: {problem}"));
    }
    let odd_date =
        template("{{ strftime_now('%') }}").render(&[], &options(false)).unwrap_err().to_string();
    assert!(odd_date.starts_with("chat_template: line 1: strftime_now: "), "{odd_date}");
}

#[test]
fn any_object_is_a_message() {
    for json in [
        json!({"role": "user", "content": "hi"}),
        json!({"role": "user", "content": null}),
        json!({"role": "assistant", "tool_calls": [{"id": "1", "function": {"name": "f", "arguments": {"b": 1, "a": 2}}}]}),
        json!({"role": "tool", "tool_call_id": "1", "name": "f", "content": "x"}),
        json!({"role": "user", "content": [
            {"type": "text", "text": "what?"}, {"type": "image_url", "image_url": {"url": "x"}},
            {"type": "sound", "sound": 5},
        ]}),
        json!({"content": 5, "other": [1]}),
    ] {
        let message = Message::deserialize(&json).unwrap();
        assert_eq!(serde_json::to_value(&message).unwrap(), json);
        let rendered = template("{{ messages[0] | tojson }}").render(&[message], &options(false));
        assert_eq!(serde_json::from_str::<Value>(&rendered.unwrap()).unwrap(), json);
    }
    for json in [json!("hi"), json!(null), json!([1])] {
        assert!(Message::deserialize(&json).is_err(), "{json}");
    }
}

/// Templates ask a part for its type, or for the key of a picture.
#[test]
fn templates_see_the_parts_of_a_content() {
    let written = "{% for part in messages[0].content %}{{ part.type }}:{{ part.text }}:\
                   {{ 'image' in part }};{% endfor %}{{ messages[1].content is string }}";
    let parts = json!([{"type": "image"}, {"type": "text", "text": "a<b"}, {"type": "video"}]);
    let messages = [message("user", "").with("content", parts), message("user", "plain")];
    let rendered = template(written).render(&messages, &options(false)).unwrap();
    assert_eq!(rendered, "image::False;text:a<b:False;video::False;True");
}

#[test]
fn thoughts_are_there_under_both_names() {
    let written = "{{ messages[0].reasoning_content }}{{ messages[0].thinking }}";
    for key in ["reasoning_content", "thinking", "reasoning"] {
        let messages = [message("assistant", "").with(key, "hm")];
        let rendered = template(written).render(&messages, &options(false)).unwrap();
        assert_eq!(rendered, "hmhm", "{key}");
    }
}

#[test]
fn the_last_message_is_continued() {
    let continued = options(false).continue_final_message(true);
    let check = |written: &str, content: Value| {
        let messages = [message("user", "hi"), message("assistant", "").with("content", content)];
        template(written).render(&messages, &continued).map_err(|error| error.to_string())
    };
    let plain = "{% for m in messages %}<{{ m.content }}>{% endfor %}";
    let trimmed = "{% for m in messages %}<{{ m.content | trim }}>{% endfor %}";
    let parts =
        "{% for m in messages[1:] %}{% for p in m.content %}<{{ p.text }}>{% endfor %}{% endfor %}";
    assert_eq!(check(plain, json!("I am ")).unwrap(), "<hi><I am ");
    assert_eq!(check(trimmed, json!("I am ")).unwrap(), "<hi><I am");
    assert_eq!(
        check(parts, json!([{"text": "a"}, {"text": "b"}, {"type": "image"}])).unwrap(),
        "<a><b"
    );
    for (written, content, problem) in [
        ("{{ messages }}", json!("x"), "the template does not read `content`"),
        (plain, json!(null), "the last message has no `content`"),
        (parts, json!([{"type": "image"}]), "the last message has no text"),
        ("{{ 'content' }}", json!("x"), "the template does not write the last message as it is"),
    ] {
        let expected = format!("chat_template: the last message cannot be continued: {problem}");
        assert_eq!(check(written, content).unwrap_err(), expected);
    }
    let empty = template(plain).render(&[], &continued).unwrap_err().to_string();
    assert!(empty.ends_with("the conversation is empty"), "{empty}");
}

fn named(templates: &[(&str, &str)], warnings: &mut Warnings) -> ChatTemplate {
    let config = Config::parse("config.json", "{}").unwrap();
    let storage = crate::files::StaticBytes::new(b"\x02\0\0\0\0\0\0\0{}");
    let checkpoint = Checkpoint::from_storage("weights", Arc::new(storage)).unwrap();
    let mut files = ModelFiles::new("model", config, checkpoint);
    let owned = |&(name, text): &(&str, &str)| (name.to_owned(), text.to_owned());
    files.chat_templates = templates.iter().map(owned).collect();
    ChatTemplate::read(&files, warnings).unwrap().unwrap()
}

#[test]
fn one_of_several_templates_is_chosen_by_name_or_by_tools() {
    let mut warnings = Warnings::default();
    let all = [("default", "d"), ("rag", "r"), ("tool_use", "t"), ("worse", "{% if %}")];
    let template = named(&all, &mut warnings);
    let broken: Vec<&str> = warnings.iter().collect();
    assert_eq!(broken.len(), 1);
    assert!(broken[0].starts_with("chat_template `worse`: line 1: "), "{}", broken[0]);
    assert!(broken[0].ends_with(": conversations are refused, plain text is not"));
    assert_eq!(template.names().collect::<Vec<_>>(), ["default", "rag", "tool_use", "worse"]);
    let plain = ChatOptions::new;
    let write = |options: ChatOptions| template.render(&[], &options).map_err(|e| e.to_string());
    assert_eq!(write(plain()).unwrap(), "d");
    assert_eq!(write(plain().tools(vec![])).unwrap(), "t");
    assert_eq!(write(plain().template_name("rag".to_owned())).unwrap(), "r");
    let chosen = plain().tools(vec![]).template_name("default".to_owned());
    assert_eq!(write(chosen).unwrap(), "d");
    let error = write(plain().template_name("worse".to_owned())).unwrap_err();
    assert_eq!(
        error,
        broken[0].strip_suffix(": conversations are refused, plain text is not").unwrap()
    );
    assert_eq!(
        write(plain().template_name("no".to_owned())).unwrap_err(),
        "chat_template `no`: the model has no template `no`, expected one of `default`, `rag`, \
         `tool_use`, `worse`"
    );
    // As in transformers, no other one stands in for the default.
    let template = named(&[("rag", "r")], &mut warnings);
    assert!(template.render(&[], &plain().tools(vec![])).is_err());
}

#[test]
fn endless_work_is_refused() {
    for written in [
        "{% for i in range(100000) %}{% for j in range(100000) %}{% endfor %}{% endfor %}",
        "{% macro m() %}{{ m() }}{% endmacro %}{{ m() }}",
        "{{ range(1000000000) }}",
        "{{ 'x' * 1000000000 }}",
        "{% set ns = namespace(x='xxxxxxxx') %}{% for i in range(99) %}{% set ns.x = ns.x ~ ns.x %}{% endfor %}",
        "{{ '%*d' % (1000000000, 1) }}",
        "{{ 10 ** 1000 }}",
    ] {
        assert!(template(written).render(&[], &options(false)).is_err(), "{written}");
    }
    let deep = "(".repeat(5000);
    assert!(ChatTemplate::new(&format!("{{{{ {deep} }}}}"), &SpecialTokens::default()).is_err());
}

#[test]
fn special_tokens_are_text_or_objects() {
    let written = "{{ bos_token }}{{ eos_token }}{{ pad_token is defined }}";
    check(written, &[], false, "<s></s>False");
    assert_eq!(
        ChatTemplate::new("{{ bos_token }}.", &SpecialTokens::default())
            .unwrap()
            .render(&[], &options(true))
            .unwrap(),
        "."
    );
    let config = Config::parse("tokenizer_config.json", r#"{"bos_token": 1}"#).unwrap();
    assert_eq!(
        SpecialTokens::read(Some(&config), None, &mut Warnings::default()).unwrap_err().to_string(),
        "tokenizer_config.json: key `bos_token` is 1, expected text or an object with `content`"
    );
}

#[test]
fn the_date_is_today_in_the_given_format() {
    let before = jiff::Zoned::now().date();
    let text = template("{{ strftime_now('%d %b %Y') }}").render(&[], &options(false)).unwrap();
    let shown = jiff::civil::Date::strptime("%d %b %Y", &text).unwrap();
    assert!((before..=jiff::Zoned::now().date()).contains(&shown), "{text}");
}

#[test]
fn agrees_with_transformers_on_a_conversation() {
    const CONFIG: &str = include_str!("../../../../testdata/qwen2_moe/tokenizer_config.json");
    const GOLDEN: &str = include_str!("../../../../testdata/qwen2_moe/tokenizer_golden.json");
    let config = Config::parse("tokenizer_config.json", CONFIG).unwrap();
    let golden: serde_json::Value = serde_json::from_str(GOLDEN).unwrap();
    let messages = Vec::<Message>::deserialize(&golden["chat"]["messages"]).unwrap();
    let template: String = config.required("chat_template").unwrap();
    let template = ChatTemplate::new(&template, &special_tokens(&config)).unwrap();
    assert_eq!(template.render(&messages, &options(true)).unwrap(), golden["chat"]["text"]);
}
