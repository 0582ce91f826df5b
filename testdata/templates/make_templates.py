"""Templates and what the reference renders: writes templates.json beside this file.

    python make_templates.py

The text is that of `render_jinja_template` of transformers; `error` stands where it raises.
"""

import json
import pathlib
import logging

from transformers.utils.chat_template_utils import render_jinja_template

logging.disable(logging.WARNING)
HERE = pathlib.Path(__file__).parent

TOOL = {
    "type": "function",
    "function": {
        "name": "weather",
        "description": "The weather <now> & later",
        "parameters": {
            "type": "object",
            "properties": {
                "city": {"type": "string", "description": "where"},
                "days": {"type": "array", "items": {"type": "integer"}, "minItems": 1},
                "unit": {"type": "string", "enum": ["C", "F"], "default": "C"},
            },
            "required": ["city"],
        },
    },
}
PLAIN = [
    {"role": "system", "content": "Be brief."},
    {"role": "user", "content": "Hi <there> & \"you\""},
    {"role": "assistant", "content": " Hello! "},
    {"role": "user", "content": "Bye\n"},
]
CALLS = [
    {"role": "user", "content": "Weather in Köln?"},
    {
        "role": "assistant",
        "content": None,
        "reasoning_content": "I call it.",
        "tool_calls": [
            {
                "id": "call_1",
                "type": "function",
                "function": {
                    "name": "weather",
                    "arguments": {"city": "Köln", "days": [1, 2], "unit": None, "wet": True, "x": 1.0},
                },
            }
        ],
    },
    {"role": "tool", "name": "weather", "tool_call_id": "call_1", "content": "{\"sky\": \"grey\"}"},
    {"role": "assistant", "content": "<think>\nfine\n</think>\n\nGrey."},
    {"role": "user", "content": [{"type": "text", "text": "And "}, {"type": "image_url", "image_url": {"url": "x"}}, {"type": "text", "text": "this?"}]},
]
VARIABLES = {
    "n": 7, "f": 2.5, "s": "the quick Brown fox", "e": "", "zero": 0, "yes": True, "no": False, "nil": None,
    "l": [3, 1, 2], "words": ["b", "A", "c", "a"], "d": {"b": 1, "a": "x", "items": [1], "c": None},
    "people": [{"name": "Ann", "age": 30, "city": {"id": 2}}, {"name": "Bob", "age": 25, "city": {"id": 1}}, {"name": "Cid", "age": 30, "city": {"id": 2}}],
    "big": 1e16, "third": 0.1, "huge": 12345678901234567890, "mixed": [1, "a", None, 2.0, True, {"k": "it's"}],
    "uni": "Ünï ☃ ß", "lines": "one\ntwo\r\nthree\n", "html": "<b>bold</b> &amp; 'x' \"y\"",
}

EXPRESSIONS = r"""
n + 1|n - 8|n * 2|n / 2|n // 2|-n // 2|n % 4|-n % 4|n ** 2|2 ** 3 ** 2|2 ** -1|f + 1|f * 2|1.0|1.5e3|big|1e22|third + 0.2|1e-5|0.0001|100000.0|3.0 // 2|-7 % 2.5|7 % -3|n / 7|huge|huge + 1|2 ** 70|1_000|0x1f|0b11|0o17|1e5|n + f|yes + 1|-yes|+n|- -n|--n
"a" + "b"|"a" + 1|1 + "a"|"a" ~ 1 ~ none ~ true ~ 1.0 ~ l|"ab" * 3|3 * "ab"|"ab" * -1|l + [4]|l * 2|[1] + (2,)|(1, 2) + (3,)|"a" - "b"|none + 1|undef + 1|undef ~ "x"|"x" + undef|undef * 2|l + 1|"a" * "b"|1 / 0|1 // 0|1 % 0|d + d
"%s" % n|"%s-%d" % ("a", 3)|"%d%%" % 50|"%.2f" % 3.14159|"%5d|" % 42|"%-5d|" % 42|"%05d" % 42|"%x %X %o" % (255, 255, 8)|"%r" % "it's"|"%s" % "x"|"%s" % none|"%s" % [1, "a"]|"%s %s" % "a"|"%s" % (1, 2)|"%(a)s-%(b)d" % {"a": "q", "b": 2}|"%e" % 12345.678|"%g" % 0.00001|"%c" % 65|"%s" % undef|"%d" % "a"|"%d" % 2.7|"%+d" % 5|"%10s|" % "abc"|"%.2s" % "abc"|"no" % ()|"no" % (1,)|"%s" % {"a": 1}|"%i" % 3|"%*d" % (5, 3)|"%#x" % 255|"% d" % 5|"%g" % 100000.0|"%g" % 1000000.0|"%s" % true|n % "a"
1 < 2 < 3|1 < 3 < 2|1 == 1.0|1 == true|"a" < "b"|"a" < 1|none < 1|[1, 2] < [1, 3]|none == none|n != 7|"a" in "abc"|"z" not in "abc"|1 in l|1 in "abc"|"a" in d|"z" in d|1 in none|"a" in undef|undef == undef|undef == none|not undef|(1, 2) == [1, 2]|{"a": 1} == {"a": 1.0}|"1" == 1|true == "true"|1 in (1, 2)|l == [3, 1, 2]|undef < 1|d == d|1 <= 1 >= 0|not 1 == 2|not true in [false]
s|e|nil|yes|no|l|d|words|people|mixed|f|(1, 2)|(1,)|()|[]|{}|{"a": "it's", "b": 'say "x"', "c": 'it\'s "x"'}|["a\nb\tc\\d"]|["é☃"]|[1.0, 1e16, 1e-7]|[none, true]|{1: 2, none: 3, true: 4}|[[], {}, ()]|undef|["\x07"]
s.upper()|s.lower()|s.title()|s.capitalize()|"don't stop".title()|s.split()|s.split(" ", 1)|"a,b,,c".split(",")|"a.b.c".rsplit(".")|"a.b.c".rsplit(".", 1)|"a b  c".rsplit(None, 1)|"a b  c ".split(none, 1)|"a.b".split("")|" x ".strip()|"xxaxx".strip("x")|"xxaxx".lstrip("x")|"xxaxx".rstrip("x")|"abc".removeprefix("a")|"abc".removesuffix("bc")|"abc".removeprefix("z")|"abc".startswith("a")|"abc".startswith(("x", "a"))|"abc".startswith("b", 1)|"abc".endswith(("x", "c"))|"abc".endswith("b", 0, 2)|"a-b-c".partition("-")|"a-b-c".rpartition("-")|"abc".partition("x")|"abc".rpartition("x")|"{}-{}".format(1, "a")|"{0}{1}{0}".format("a", "b")|"{x}".format(x=3)|"{:>5}|{:<5}|{:^5}".format("a", "b", "c")|"{:.2f} {:05d} {:,}".format(3.14159, 42, 1234567)|"{!r}".format("a")|"{{}}".format()|"{0[a]}".format({"a": 5})|"{}".format()|"{:x} {:b} {:o} {:#x} {:e} {:%}".format(255, 5, 8, 255, 1234.5, 0.25)|", ".join(words)|"".join([1])|"".join("abc")|"-".join(d)|"42".zfill(5)|"-42".zfill(5)|"a\nb\r\nc\n".splitlines()|"a\nb".splitlines(true)|"banana".find("an")|"banana".rfind("an")|"banana".find("x")|"banana".index("n")|"banana".index("x")|"banana".rindex("n")|"banana".count("a")|"banana".count("ana")|"banana".count("")|"123".isdigit()|"12a".isdigit()|"".isdigit()|"abc".isalpha()|"a1".isalnum()|" ".isspace()|"A".isupper()|"a".islower()|"Ab C".istitle()|"½".isnumeric()|"²".isdigit()|"1".isdecimal()|"a_1".isidentifier()|"a".isascii()|"a".isprintable()|"a".ljust(3) ~ "|"|"a".rjust(3, "*")|"a".center(4, "-")|"ab".center(5, "-")|"aXbX".replace("X", "-")|"aXbX".replace("X", "-", 1)|"abc".replace("", "-")|"a\tb".expandtabs(4)|"aB".swapcase()|"ß".casefold()|"abc".encode()|"abc".nosuch()|s.nosuch|"abc".translate({97: "x"})|"a".upper
d.get("a")|d.get("z")|d.get("z", 5)|d.items()|d.keys()|d.values()|d.items|d["items"]|d.a|d.z|d.z.y|d["z"]|d.keys() | list|d.items() | list|d.values() | list|d.copy()|d.pop("a")|d.update({"q": 1})|d.clear()|d.setdefault("a", 1)|l.index(1)|l.index(9)|l.count(3)|l.append(4)|l.pop()|l.sort()|l.reverse()|l.extend([1])|l.insert(0, 1)|l.copy()|(1, 2, 1).count(1)|(1, 2).index(2)|n.bit_length()|f.is_integer()|n.real|undef.x|undef["x"]|undef()|nil.x|nil["x"]|n.x|l.x|l[0]|l[-1]|l[9]|l["a"]|l.0|s[0]|s[-1]|s[99]|s[1:3]|s[::-1]|s[::2]|s[-3:]|s[:-3]|l[::-1]|l[1:]|l[:1]|l[-2:]|l[5:]|(1, 2, 3)[1:]|(1, 2, 3)[::-1]|d[0]|n[0]|nil[0]|undef[1:]|s.__class__|s.__len__()|d.__class__|l[::0]|l[true]|"abc"["upper"]()|d["get"]("a")|d.get|l[:100]|l[3:1]|nil[1:]
undef is defined|n is defined|undef is undefined|nil is none|nil is defined|nil is iterable|undef is iterable|l is iterable|s is iterable|n is iterable|d is iterable|nil is sequence|undef is sequence|l is sequence|s is sequence|d is sequence|n is sequence|(1,) is sequence|range(3) is sequence|d is mapping|l is mapping|nil is mapping|n is number|yes is number|f is number|s is number|n is integer|yes is integer|f is integer|f is float|n is float|yes is boolean|n is boolean|yes is true|n is true|no is false|zero is false|s is string|n is string|nil is string|n is odd|n is even|n is divisibleby 7|n is divisibleby(3)|n is eq 7|n is equalto 8|n is ne 8|n is lt 8|n is gt 8|n is ge 7|n is le 6|n is lessthan 8|n is greaterthan 1|1 is in [1]|"a" is in "abc"|n is in none|nil is sameas none|yes is sameas true|1 is sameas true|1 is sameas 1.0|range is callable|s is callable|s is escaped|(s\|e) is escaped|"upper" is filter|"nofilter" is filter|"odd" is test|"notest" is test|"abc" is lower|"ABC" is upper|"" is lower|1 is lower|n is not none|n is not odd|not n is odd|n is nosuch|undef is none|undef is string|undef is mapping|d is defined and d.z is defined|d.items is defined|d.items is callable|d.z.y is defined|l is not string and l is iterable|f is odd|s is odd|d.a is string|undef is false|undef is callable|dict is callable|nil is callable|s is startingwith "t"|nil is number
-5 | abs|-n | abs|"a" | abs|people[0] | attr("name")|d | attr("keys")|[1,2,3,4,5] | batch(2) | list|[1,2,3] | batch(2, "x") | list|"hello WORLD" | capitalize|"ab" | center(6) ~ "|"|s | count|undef | d("x")|undef | default("x")|e | default("x")|e | default("x", true)|nil | default("x")|nil | default("x", boolean=true)|no | default("x", true)|d.z | default("q")|undef | default|undef.x | default("q")|d | dictsort|d | dictsort(reverse=true)|{"b": 2, "A": 1} | dictsort|{"b": 2, "A": 1} | dictsort(true)|{"b": 1, "a": 2} | dictsort(by="value")|html | e|html | escape|html | forceescape|html | safe|html | e | e|html | e | forceescape|1000 | filesizeformat|1 | filesizeformat|1500000 | filesizeformat|1500000 | filesizeformat(true)|l | first|[] | first|s | first|d | first|nil | first|undef | first|l | last|[] | last|s | last|"3.5" | float|"x" | float|"x" | float(1.5)|nil | float|n | float|"%s-%s" | format("a", 1)|"%(x)s" | format(x=5)|"%s" | format(s)|"a\nb\n\nc" | indent|"a\nb\n\nc" | indent(2, true)|"a\nb\n\nc" | indent(2, blank=true)|"a\nb" | indent("> ")|"a\nb" | indent(width=2, first=true)|"42" | int|"4.7" | int|4.7 | int|"x" | int|"x" | int(9)|"0x1f" | int(0, 16)|"ff" | int(base=16)|nil | int|" 5 " | int|d | items | list|undef | items | list|nil | items|l | items|l | join|l | join(", ")|words | join("-")|people | join(", ", attribute="name")|mixed | join("/")|s | join("-")|nil | join|n | join|undef | join|d | join(",")|l | length|s | length|d | length|undef | length|n | length|nil | length|"abc" | list|d | list|nil | list|n | list|undef | list|(1, 2) | list|"ABC" | lower|n | lower|nil | lower|people | map(attribute="name") | list|people | map(attribute="city.id") | list|people | map(attribute="x", default="q") | list|words | map("upper") | list|l | map("string") | join|[[1, 2], [3]] | map("first") | list|people | map(attribute="x") | list|["a"] | map("nosuch") | list|l | map("float") | list|["1", "x"] | map("int", default=7) | list|people | map("attr", "name") | list|[[1,2],[3,4]] | map(attribute=1) | list|l | max|l | min|[] | max|words | max|words | max(case_sensitive=true)|people | max(attribute="age")|people | min(attribute="age")|d | pprint|mixed | pprint|[1, 2] | random in [1, 2]|l | reject("odd") | list|people | rejectattr("age", "eq", 30) | map(attribute="name") | list|[0, 1, "", none, "a"] | reject | list|"aXbX" | replace("X", "-")|"aXbX" | replace("X", "-", 1)|n | replace("7", "8")|l | reverse | list|s | reverse|d | reverse | list|n | reverse|2.5 | round|3.5 | round|2.567 | round(2)|2.1 | round(method="ceil")|2.9 | round(method="floor")|1234 | round(-2)|n | round|2.675 | round(2)|l | select("odd") | list|[0, 1, "", "a"] | select | list|l | select(">", 1) | list|l | select("gt", 1) | list|words | select("in", ["a", "b"]) | list|people | selectattr("age", "equalto", 30) | map(attribute="name") | list|people | selectattr("age") | list | length|people | selectattr("x", "defined") | list|people | selectattr("city.id", "==", 1) | map(attribute="name") | join|messages | selectattr("role", "equalto", "user") | list | length|[1,2,3,4,5] | slice(2) | list|[1,2,3,4,5] | slice(3, "x") | list|l | sort|l | sort(reverse=true)|words | sort|words | sort(case_sensitive=true)|people | sort(attribute="age") | map(attribute="name") | list|people | sort(attribute="age,name", reverse=true) | map(attribute="name") | list|[1, "a"] | sort|d | sort|n | string|f | string|nil | string|yes | string|l | string|undef | string|html | striptags|l | sum|[] | sum|people | sum(attribute="age")|l | sum(start=10)|[0.1, 0.2] | sum|["a"] | sum|s | title|"foo-bar (baz) it's" | title|d | tojson|mixed | tojson|d | tojson(indent=2)|html | tojson|uni | tojson|uni | tojson(ensure_ascii=true)|d | tojson(sort_keys=true)|d | tojson(separators=(",", ":"))|undef | tojson|big | tojson|huge | tojson|1.0 | tojson|(1, 2) | tojson|{1: 2} | tojson|{none: 1, true: 2} | tojson|d | tojson | length|[] | tojson(indent=2)|d | tojson(indent=none)|"a" | tojson(4)|l | tojson(false, 1)|d.items() | tojson|d.items() | list | tojson|l | tojson(indent="--")|"  x " | trim|"xxaxx" | trim("x")|n | trim|"the quick brown fox jumps" | truncate(12)|"the quick brown fox" | truncate(9, true)|"the quick brown fox" | truncate(9, false, "…")|"the quick brown fox" | truncate(9, false, "", 0)|"short" | truncate(10)|words | unique | list|words | unique(true) | list|[1, 1, 2] | unique | list|people | unique(attribute="age") | map(attribute="name") | list|"abc" | upper|n | upper|"a b/c?d=é&" | urlencode|{"a": 1, "b": "x y"} | urlencode|[("a", 1)] | urlencode|"see http://a.b/c and x@y.z" | urlize|s | wordcount|"the quick brown fox jumps over" | wordwrap(10)|"averyveryverylongword x" | wordwrap(5)|"averyveryverylongword x" | wordwrap(5, false)|"a-b-c d" | wordwrap(3, wrapstring="/")|{"a": 1, "b": none, "c": "<"} | xmlattr|{"a": 1} | xmlattr(false)|s | nosuch|l | groupby(attribute="x")|people | groupby("age") | list|people | groupby("age") | map("list") | list|people | groupby("city.id") | map("first") | list|people | groupby("x", default=0) | map("first") | list|0 | filesizeformat|"1234" | filesizeformat|1e30 | filesizeformat|999999 | filesizeformat|999999 | filesizeformat(binary=true)|1048576 | filesizeformat(true)|-5 | filesizeformat|0.5 | filesizeformat|"x" | filesizeformat|l | truncate|n | truncate|"abcdef" | truncate(3, leeway=0)|"abcdef" | truncate(2)|"ab cd" | truncate(length=4, killwords=true, end="", leeway=0)|"ab cd ef gh ij" | truncate(8, leeway=1)|7 | urlencode|nil | urlencode|[1] | urlencode|{"a/b": "é c"} | urlencode|{"a b": 1} | xmlattr|{"k": html \| e} | xmlattr|{"k": undef, "n": none} | xmlattr|l | xmlattr|{1: 2} | tojson(sort_keys=true)|{1.5: 2} | tojson|{(1, 2): 3} | tojson|d | tojson(indent=0)|d | tojson(indent=-1)|d | tojson(indent=true)|d | tojson(false, none, [",", ":"], true)|d | tojson(1, 2, 3, 4, 5)|{"a": [1, {"b": 2}], "c": {}} | tojson(indent="\t")|uni | tojson(1)|-1 \| abs|-f \| abs \| string|"a" "b"|n \| string \| length|(n + 1) \| string
range(3)|range(3) | list|range(1, 7, 2) | list|range(3, 0, -1) | list|range(200000)|range(100000) | length|range(0)|range(3)[1]|range(1, 10)[2:4] | list|range(2.5)|range("a")|dict(a=1, b="x")|dict({"q": 1}, b=2)|dict([("a", 1)])|dict()|lipsum(n=1, html=false) is string|cycler("a", "b").next()|joiner(", ")()|namespace(a=1).a|namespace(a=1)|namespace().x|namespace(x=1).x is defined|raise_exception("no")|raise_exception()|strftime_now("%Y") is string|nosuch()|dict(a=1).a|range|namespace(_x=1)|loop|caller()|self|dict.fromkeys(["a"], 1)|"a" if yes|"a" if no|"a" if no else "b"|("a" if no) is defined|"a" if no else "b" if no else "c"|yes and "x"|no or "x"|e or nil|nil and 1|yes and no or 5|not yes|not not n|n > 3 and n < 9|[x for x in l]|lambda x: x|n if n else undef.x.y|1 if l|{} or "empty"|[] and 1|true and true|True|False|None|TRUE|n == 7 == true|undef or "x"|undef and "x"|(n)|((n, 1))|l[n - 7]|d["a" ~ ""]|{"k": l}.k[0]|[n, s | length]|{"a": 1, "a": 2}|{"a": {"b": {"c": 1}}}.a.b.c|"\u00e9\x41\101\n\"\'"|'it''s'|"a\qb"|"tab\there"|1.|.5|1..real|n.|5 if|"unclosed|{{1}}|n and|** 2|n ** ** 2|(1|[1, 2|1 2
"abc"|string * 2|"x" ~ undef ~ "y"|1 ~ 2|"a" ~ "b" + "c"|1 + 2 ~ 3|2 * 3 ~ 4|n ~ -1|-2 ** 2|2 * 3 ** 2|10 - 2 - 3|2 + 3 * 4|(2 + 3) * 4|10 / 2 / 5|7 // 2 * 2|n % 3 + 1|"%d" % n + 1|"%d" % (n + 1)|"%s" % n ~ "x"|"a" + "%s" % "b"|not n in l|n not in l|n in l or 3 in l|"a" in d and d.a == "x"|d.a is defined and d.a is string|l | length > 2|l | length - 1|l | length // 2|n is number and n > 3|l | first + 1|-l | first|-(l | first)|"a,b" | replace(",", ";") ~ "c"|s.split(" ") | first|s.split()[0].upper()|(s.split() | last).title()|people[0].name|people[0]["name"]|people[-1].city.id|people[1:] | map(attribute="name") | join(",")|messages[0].role|messages[0]["content"][:4]|messages[-1].content | trim|messages | length|messages | map(attribute="role") | list|tools|tools is none|tools is defined|documents is none|tools is iterable and tools | length > 0|add_generation_prompt|bos_token|true is true|1.5 is number|messages[0].get("name")|messages[0].get("name", "?")|messages[0].name is defined|messages[0]["name"] is defined|"role" in messages[0]|messages[0].items() | list|messages[::-1] | map(attribute="role") | join|messages[1:3] | length|messages | selectattr("role", "in", ["user"]) | list | length|messages[99]|messages[99].role|messages.0.role|messages|first|messages | last | tojson|float("1")|int(1)|str(1)|len(l)|zip(l, l)|enumerate(l)|1 | bool|"a b" | split|"a\nb" | lines
("<a>" | safe) + "<b>"|"<b>" + ("<a>" | safe)|("<a>" | safe) ~ "<" ~ 1|"<" ~ ("<" | e)|("%s-%s" | safe) % ("<", 1)|("%(k)s" | safe) % {"k": "<"}|("%s" | safe) % ["<"]|("%d" | safe) % 3|("<" | safe) * 2 + "<"|["<", "<" | safe] | join(",") + "<"|("<a>" | safe).upper() + "<"|("<a>" | safe) | upper + "<"|(" <a> " | safe) | trim + "<"|("<a>" | safe) | replace("a", "<") + "<"|("<a>" | safe).replace("a", "<") + "<"|("<a>" | safe) | string + "<"|("<a>" | safe)[0:2] + "<"|("<a>" | safe)[0] + "<"|("<a>" | safe) | first + "<"|("<a>" | safe).split("a")[0] + "<"|("<a>" | safe).partition("a")[0] + "<"|("<" | safe).join(["a", "<"])|("{}" | safe).format("<")|("{x}" | safe).format(x="<")|("%s" | safe) | format("<")|("a" | safe) | center(5) + "<"|("a" | safe).center(5, "<")|("a" | safe).ljust(3, "<")|("<a>" | safe) | title + "<"|("<a>" | safe) | reverse + "<"|("<a>\n<b>" | safe) | indent(2) + "<"|("<a b c d e f g>" | safe) | truncate(5, leeway=0) + "<"|("<a b>" | safe) | truncate(3, true, "&", 0)|("<a>" | e) + "<"|html | e ~ html|("<" | safe) == "<"|("<" | safe) in "<a"|[("<" | safe)]|{"a": "<" | safe} | tojson|("<" | safe) | tojson + "<"|("<" | safe) | length|("<" | safe) is string|("<" | safe) + 1|("<" | safe) ~ none|undef ~ ("<" | safe)|["<"] ~ ("<" | safe)|("<" | safe) | default("x") + "<"|("a,<" | safe) | replace(",", "&") | upper|("<" | safe) | lower ~ "<"|("<A" | safe) | capitalize + "<"|("<" | safe) + ("<" | e)|("<" | safe).startswith("<")|("<" | safe) is escaped|("<" | safe) + "<" is escaped|("<" | safe) | list|("a<" | safe) | wordcount|("<" | safe) or "x"
"""

STATEMENTS = [
    "{% for x in l %}{{ loop.index }}{{ loop.index0 }}{{ loop.revindex }}{{ loop.revindex0 }}{{ loop.first }}{{ loop.last }}{{ loop.length }}{{ x }};{% endfor %}",
    "{% for x in l %}{{ loop.previtem }}<{{ x }}>{{ loop.nextitem }}{{ loop.cycle('a', 'b') }}{% endfor %}",
    "{% for x in l %}{{ loop.previtem is defined }}{{ loop.nextitem is defined }}{% endfor %}",
    "{% for x in [1,1,2] %}{{ loop.changed(x) }}{{ loop.depth }}{{ loop.depth0 }}{% endfor %}",
    "{% for x in l if x > 1 %}{{ loop.index }}/{{ loop.length }}:{{ x }} {% endfor %}",
    "{% for x in [] %}a{% else %}none{% endfor %}", "{% for x in nil %}a{% else %}none{% endfor %}",
    "{% for x in undef %}a{% else %}none{% endfor %}", "{% for x in n %}a{% endfor %}", "{% for c in 'abc' %}{{ c }},{% endfor %}",
    "{% for k in d %}{{ k }},{% endfor %}", "{% for k, v in d.items() %}{{ k }}={{ v }},{% endfor %}", "{% for k, v in d|dictsort %}{{ k }}={{ v }},{% endfor %}",
    "{% for k, v in d | items %}{{ k }}={{ v }},{% endfor %}", "{% for a, b in [(1, 2), [3, 4]] %}{{ a }}{{ b }}{% endfor %}", "{% for a, b in [1] %}{{ a }}{% endfor %}",
    "{% for a, b in [(1, 2, 3)] %}{{ a }}{% endfor %}", "{% for a, (b, c) in [(1, (2, 3))] %}{{ a }}{{ b }}{{ c }}{% endfor %}",
    "{% for x in l %}{% if x == 1 %}{% continue %}{% endif %}{{ x }}{% endfor %}", "{% for x in l %}{% if x == 1 %}{% break %}{% endif %}{{ x }}{% endfor %}",
    "{% for x in [[1,[2]],[3]] recursive %}{% if x is sequence %}({{ loop(x) }}){% else %}{{ x }}{% endif %}{% endfor %}",
    "{% for x in range(3) %}{% for y in range(2) %}{{ loop.depth }}{{ x }}{{ y }} {% endfor %}{% endfor %}",
    "{% for x in 1, 2, 3 %}{{ x }}{% endfor %}", "{% for x in l %}{% set y = x %}{% endfor %}{{ y }}", "{% set y = 1 %}{% for x in l %}{% set y = x %}{% endfor %}{{ y }}",
    "{% set ns = namespace(y=0) %}{% for x in l %}{% set ns.y = ns.y + x %}{% endfor %}{{ ns.y }}", "{% set ns = namespace() %}{% set ns.a = 1 %}{{ ns.a }}", "{% set d.a = 1 %}",
    "{% set a, b = 1, 2 %}{{ a }}{{ b }}", "{% set a = 1, 2 %}{{ a }}", "{% set a %}x{{ n }}{% endset %}{{ a }}", "{% set a | upper %}x{% endset %}{{ a }}", "{% set a | replace('x', 'y') | upper %}x{% endset %}{{ a }}",
    "{% if n %}a{% elif s %}b{% else %}c{% endif %}", "{% if undef %}a{% else %}c{% endif %}", "{% if undef.x %}a{% endif %}", "{% if zero %}a{% elif e %}b{% elif l %}c{% endif %}",
    "{% if n == 7 and s %}a{% endif %}", "{% if not (n == 7) %}a{% else %}b{% endif %}", "{% if 0.0 %}a{% else %}b{% endif %}", "{% if {} %}a{% else %}b{% endif %}", "{% if () %}a{% else %}b{% endif %}", "{% if range(0) %}a{% else %}b{% endif %}",
    "{% macro m(a, b=2) %}{{ a }}{{ b }}{% endmacro %}{{ m(1) }}{{ m(1, 3) }}{{ m(b=5, a=4) }}{{ m() }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(1, 2) }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m(z=2) }}",
    "{% macro m(a) %}{{ a }}{{ varargs }}{% endmacro %}{{ m(1, 2, 3) }}", "{% macro m() %}{{ kwargs }}{% endmacro %}{{ m(a=1) }}", "{% macro m() %}[{{ caller() }}]{% endmacro %}{% call m() %}x{% endcall %}",
    "{% macro m() %}[{{ caller(1, 2) }}]{% endmacro %}{% call(a, b) m() %}{{ a }}-{{ b }}{% endcall %}", "{% macro m() %}{{ caller is defined }}{% endmacro %}{{ m() }}", "{% macro m(a, b) %}{{ b is defined }}{% endmacro %}{{ m(1) }}",
    "{% macro m(a, b=a) %}{{ b }}{% endmacro %}{{ m(1) }}", "{% macro m(x) %}{% if x %}{{ x }}{{ m(x - 1) }}{% endif %}{% endmacro %}{{ m(3) }}", "{% macro m() %}{{ n }}{% endmacro %}{{ m() }}", "{% macro m() %}{{ q }}{% endmacro %}{% set q = 4 %}{{ m() }}",
    "{% macro m(a) %}{{ a }}{% endmacro %}{{ m.name }}{{ m.arguments }}", "{% macro m() %}<a>{% endmacro %}{{ m() | upper }}{{ m() ~ 'x' }}{{ m() + 'y' }}", "{% macro m(x) -%}\n  {{ x }}\n{%- endmacro %}a{{ m(1) }}b", "{{ m() }}{% macro m() %}x{% endmacro %}",
    "{% filter upper %}abc{{ s }}{% endfilter %}", "{% filter replace('a', 'b') %}aaa{% endfilter %}", "{% with a = 1, b = 2 %}{{ a }}{{ b }}{% endwith %}{{ a }}", "{% with %}{% set z = 1 %}{{ z }}{% endwith %}{{ z }}",
    "{% raw %}{{ n }}{% if %}{% endraw %}{{ n }}", "{%- raw -%} {{ n }} {%- endraw -%} x", "a{# comment {{ n }} #}b", "a\n{# c #}\nb", "a\n  {# c #}\nb", "a\n  {#- c -#}\nb", "{# unclosed", "{% raw %}x",
    "{% generation %}x{{ n }}{% endgeneration %}y", "{%- generation -%} x {%- endgeneration -%} y", "{% generation %}{% set z = 1 %}{% endgeneration %}{{ z }}", "{% for x in l %}{% generation %}{{ x }}{{ loop.index }}{% endgeneration %}{% endfor %}", "{% generation %}a", "{% set generation = 1 %}{{ generation }}",
    "a\n{% if true %}\nb\n{% endif %}\nc\n", "a\n  {% if true %}\n  b\n  {% endif %}\nc\n\n", "a\n  {%- if true %}\n  b\n  {%- endif -%}\nc", "  {%+ if true %}x{% endif %}", "{% if true +%}\nx{% endif %}", "{{ n }}\n", "{{ n }}\n\n", "{{- n -}}\n x", " {{ n }} \n {{ n }}", "\t{% set a = 1 %}\t\nx", "x {% set a = 1 %}\ny", "{{ n\n}}", "{% if n\n == 7 %}x{% endif %}", "\n\n{{ n }}", "a\r\nb\r\n", "a\rb", "{% if true %}\r\nx\r\n{% endif %}\r\ny\r\n", "{{ 'a\r\nb' }}", "\u00a0{%- set a = 1 -%}\u00a0x", "\u2003{{- n -}}\u2003x",
    "{% include 'x' %}", "{% include 'x' ignore missing %}", "{% extends 'x' %}", "{% import 'x' as y %}", "{% from 'x' import y %}", "{% block b %}x{% endblock %}", "{% do l %}", "{% set x = '<' | safe %}{{ x + '<' }}", "{% set y %}<a>{% endset %}{{ y + '<' }}", "{% macro m(a) %}{{ a }}{% endmacro %}{{ m('<') + '<' }}", "{% for c in '<a' | safe %}{{ c + '<' }}{% endfor %}", "{% filter e %}<{% endfilter %}", "{% print n %}", "{% print n, s %}", "{% print (n, s) %}\nx", "a {%- print n -%} b", "{% print %}", "{% autoescape true %}{{ html }}{% endautoescape %}", "{% trans %}x{% endtrans %}", "{% nosuch %}", "{% if %}x{% endif %}", "{% for x in l %}", "{% endfor %}", "{% if n %}x{% endfor %}", "{{ }}", "{% %}", "{{ n", "{% if n", "}} %} #}", "{ {n} }", "{{ '}}' }}", "{{ '{{' }}", "{{ {'a': {'b': 1}}['a']['b'] }}", "{{ {'a': {'b': 1}} }}", "{{ \"%}\" }}{% if '%}' %}x{% endif %}", "{{ n -}}   x", "{{ n}}{{-n }}", "{{n-1}}", "{{-1}}", "{{ - 1 }}", "{{+1}}", "{%if n%}x{%endif%}", "{%- if n -%}  x  {%- endif -%}", "{% set x = 'a' if n else 'b' %}{{ x }}", "{% set x = [] %}{% set x = x + [1] %}{{ x }}", "{% set x = x | default('q') %}{{ x }}", "{% set _ = 1 %}{{ _ }}", "{% set loop = 5 %}{{ loop }}", "{% for loop in l %}{{ loop }}{% endfor %}", "{% if l is iterable and l is not string and l is not mapping %}x{% endif %}",
    "{% set c = cycler('a', 'b') %}{{ c.next() }}{{ c.next() }}{{ c.next() }}{{ c.current }}{% set x = c.reset() %}{{ c.current }}", "{% set j = joiner('|') %}{% for x in l %}{{ j() }}{{ x }}{% endfor %}", "{% set j = joiner() %}{{ j() }}{{ j() }}",
    "{% for m in messages %}{{ m.role }}:{{ m.content }};{% endfor %}", "{% for m in messages %}{% if m.role == 'user' %}{{ raise_exception('No ' + m.role + '!') }}{% endif %}{% endfor %}", "{% for m in messages %}{% if loop.first and m['role'] != 'user' %}{{ 'sys' }}{% endif %}{% endfor %}",
    "{% if tools is iterable and tools | length > 0 %}t{% else %}no{% endif %}", "{% if tools is not none and tools %}t{% else %}no{% endif %}", "{%- for g in people | groupby('age') %}{{ g.grouper }}:{{ g.list | map(attribute='name') | join('+') }} {% endfor %}", "{% for age, list in people | groupby('age') %}{{ age }}:{{ list | length }} {% endfor %}",
    "{{ (messages | first).role if messages else 'none' }}", "{% set ns = namespace(found=false, x=[]) %}{% for m in messages %}{% if not ns.found and m.role == 'user' %}{% set ns.found = true %}{% set ns.x = ns.x + [m.content] %}{% endif %}{% endfor %}{{ ns.found }}{{ ns.x }}",
    "{% set text = 'a' %}{% set text = text ~ 'b' %}{{ text }}", "{% for i in range(100000) %}{% endfor %}x", "{% for c in messages[0].content %}{{ c }}{% endfor %}", "{% set x = {'a': 1} %}{% set y = dict(x, b=2) %}{{ y }}{{ x }}", "{% for t in [1, 2] %}{%- if not loop.last %}, {% endif %}{% endfor %}|",
    "{% macro r(v) %}{% if v is mapping %}{ {%- for k, x in v.items() %}{{ k }}:{{ r(x) }}{% if not loop.last %},{% endif %}{% endfor %} }{% elif v is string %}'{{ v }}'{% elif v is sequence %}[{% for x in v %}{{ r(x) }} {% endfor %}]{% else %}{{ v | tojson }}{% endif %}{% endmacro %}{{ r({'a': [1, 'b', {'c': none}]}) }}",
    "{%- set t = {'type': 'array', 'items': {'type': 'string'}} %}{% for k, v in t.items() %}{{ k }}={{ v }};{% endfor %}{{ t.items.type }}{{ t['items'].type }}", "{% for k in d.keys() %}{{ k }}{% endfor %}{% for v in d.values() %}{{ v }}{% endfor %}", "{{ d.items() | length }}", "{% if 'items' in d %}x{% endif %}",
    "{{ 'a' }}{{ 'b' }}\n{{ 'c' }}", "{% set a = b = 1 %}", "{{ n | }}", "{{ | n }}", "{{ n . upper }}", "{{ l [0] }}", "{{ s . upper ( ) }}", "{{ s | upper | lower | title }}", "{{ s|upper|lower|title }}", "{{ 'x' * n ~ 'y' }}", "{{ l | join(', ', ) }}", "{{ [1, 2, ] }}", "{{ {'a': 1, } }}", "{{ dict(a=1, ) }}", "{{ range(n, ) | list }}", "{{ m(*l) }}", "{{ '%s %s %s' | format(*l) }}", "{{ dict(**d) }}", "{{ range(*[1, 4]) | list }}",
]

LONG = {path.stem: path.read_text(encoding="utf-8") for path in sorted(HERE.glob("*.jinja"))}


def expressions():
    import re

    for line in EXPRESSIONS.strip().splitlines():
        # A bar between two blanks, or one that is escaped, is a filter's.
        for piece in re.split(r'(?<![ \\])\|(?! )', line):
            yield "{{ " + piece.replace("\\|", "|") + " }}"


def case(template, messages=PLAIN, tools=None, add_generation_prompt=True, **variables):
    entry = {"template": template}
    if messages is not PLAIN:
        entry["messages"] = messages
    if tools is not None:
        entry["tools"] = tools
    if not add_generation_prompt:
        entry["add_generation_prompt"] = False
    if variables.keys() != VARIABLES.keys():
        entry["variables"] = variables
    continued = variables.pop("continue_final_message", False)
    try:
        (text,), _ = render_jinja_template(
            [messages], tools, chat_template=template, add_generation_prompt=add_generation_prompt,
            continue_final_message=continued, **variables)
        json.dumps(text)
        if " at 0x" in text:
            return None
        entry["text"] = text
    except Exception as error:
        entry["error"] = f"{type(error).__name__}: {error}"[:200]
    return entry


def cases():
    seen = set()
    for template in [*expressions(), *STATEMENTS]:
        if template not in seen:
            seen.add(template)
            yield case(template, **VARIABLES)
    for name, template in LONG.items():
        for messages in (PLAIN, PLAIN[1:], CALLS, CALLS[:3], CALLS[:1]):
            for tools in (None, [TOOL]):
                for more in ({}, {"enable_thinking": False, "bos_token": "<s>", "eos_token": "</s>"}):
                    yield dict(case(template, messages, tools, not more, **more), template=name, long=True)


if __name__ == "__main__":
    golden = {"variables": VARIABLES, "messages": PLAIN, "cases": [entry for entry in cases() if entry]}
    text = json.dumps(golden, ensure_ascii=False, indent=0)
    (HERE / "templates.json").write_text(text + "\n", encoding="utf-8", newline="\n")
    print(len(golden["cases"]), "cases,", sum("error" in entry for entry in golden["cases"]), "errors")
