#include "support/catch.hpp"

#include <peft/io/json.hpp>

#include <bit>
#include <limits>
#include <string>
#include <vector>

#include "io/scratch.hpp"

using namespace peft;
using peft::io::dump_json;
using peft::io::parse_json;

namespace {

std::string refusal(std::string_view text) {
    try {
        parse_json(text, "some.json");
    } catch (const FormatError& error) {
        CHECK(error.context().file == "some.json");
        CHECK(test::fit_for_a_log(error.what()));
        return error.what();
    }
    return "accepted";
}

std::string nested(std::size_t depth) { return std::string(depth, '[') + std::string(depth, ']'); }

}  // namespace

TEST_CASE("json: values keep their kinds, and objects the order of their keys") {
    const Value value = parse_json(R"( {"z": [null, true, -3, 18446744073709551615, 0.0, "\u00e9\ud83d\ude00"], "a": {}} )");
    CHECK(value.as_object()[0].key == "z");
    CHECK(value.as_object()[1].key == "a");
    const Value::Array& items = value.at("z").as_array();
    CHECK(items[0].is_null());
    CHECK(items[1].as_bool());
    CHECK(items[2].as_integer() == -3);
    CHECK(items[3].as_unsigned() == std::numeric_limits<std::uint64_t>::max());
    CHECK_THROWS_AS(items[3].as_integer(), FormatError);
    CHECK(items[4].is_real());
    CHECK_FALSE(items[4] == Value(0));
    CHECK(items[5].as_string() == "\xc3\xa9\xf0\x9f\x98\x80");
    CHECK(parse_json("9007199254740993").as_integer() == 9007199254740993);   // 2^53 + 1 is lost by a double
}

TEST_CASE("json: accessors name the value, what was expected and what was found") {
    const Value value = parse_json(R"({"r": "8"})");
    CHECK_THROWS_WITH(value.at("r").as_integer("r"), "r: wrong type of value (expected an integer, found \"8\")");
    CHECK_THROWS_WITH(value.at("alpha"), Catch::Matchers::ContainsSubstring("alpha"));
    CHECK_THROWS_AS(value.at("r").find("x"), FormatError);
    CHECK(value.find("x") == nullptr);
    CHECK_THROWS_AS(Value(-1).as_unsigned(), FormatError);
    CHECK(Value(3).as_number() == 3.0);
    CHECK_THROWS_AS(Value(3).as_real(), FormatError);
}

TEST_CASE("json: set adds or replaces a key in its place") {
    Value value;
    value.set("b", 1);
    value.set("a", "x");
    value.set("b", 2.5);
    CHECK(dump_json(value, -1) == R"({"a": "x", "b": 2.5})");
    CHECK(value.as_object().front().key == "b");
    CHECK_THROWS_AS(Value(1).set("a", 1), FormatError);
}

TEST_CASE("json: equality ignores the order of keys and tells integers from reals") {
    CHECK(parse_json(R"({"a":1,"b":[{"c":2}]})") == parse_json(R"({"b":[{"c":2}],"a":1})"));
    CHECK_FALSE(parse_json(R"({"a":1})") == parse_json(R"({"a":1.0})"));
    CHECK_FALSE(parse_json(R"({"a":1})") == parse_json(R"({"a":1,"b":1})"));
    CHECK(Value(1u) == Value(1));
}

TEST_CASE("json: a key given twice is refused by name, also through an escape and deep inside") {
    CHECK_THAT(refusal(R"({"r":2,"x":0,"r":2})"), Catch::Matchers::ContainsSubstring("r: a key is given twice"));
    CHECK_THAT(refusal(R"({"r":2,"\u0072":64})"), Catch::Matchers::ContainsSubstring("r: a key is given twice"));
    CHECK_THAT(refusal(R"({"o":[{"k":{"/":1,"\/":1}}]})"), Catch::Matchers::ContainsSubstring("/: a key is given twice"));
}

TEST_CASE("json: what is not JSON is refused with the offset of the fault") {
    using Row = std::pair<std::string, std::string>;
    const auto row = GENERATE(values<Row>({
        {"", "byte 0"},
        {"  ", "byte 2"},
        {"\xef\xbb\xbf{}", "byte order mark at byte 0"},
        {"{} x", "byte 3"},
        {"{}{}", "byte 2"},
        {"[1,]", "byte 3"},
        {"[NaN]", "byte 1"},
        {"[Infinity]", "byte 1"},
        {"[-Infinity]", "byte 2"},
        {"{a:1}", "byte 1"},
        {"{'a':1}", "byte 1"},
        {"[01]", "byte 2"},
        {"[+1]", "byte 1"},
        {"[.5]", "byte 1"},
        {"[0x10]", "byte 2"},
        {"[1] // c", "byte 4"},
        {"\"a\tb\"", "byte 2"},
        {"\"\\x41\"", "byte 2"},
        {"\"\\u12\"", "byte 5"},
        {"\"\\ud800\"", "byte 7"},
        {"\"\\udc00\"", "byte 6"},
        {"\"abc", "byte 4"},
        {"[\"\xff\"]", "not UTF-8 at byte 2"},
        {"[\"\xc0\xaf\"]", "not UTF-8 at byte 2"},
        {"[\"\xed\xa0\x80\"]", "not UTF-8 at byte 2"},
        {"[\"\xf4\x90\x80\x80\"]", "not UTF-8 at byte 2"},
        {"[\"\xe2\x82\"]", "not UTF-8 at byte 2"},
        {std::string("{}\0", 3), "NUL byte at byte 2"},
        {std::string("[1]\0{\"a\":2}", 11), "NUL byte at byte 3"},
        {"\v{}", "byte 0"},
        {"[1e400]", "1e400"},
        {"[-1e400]", "1e400"},
    }));
    CAPTURE(row.first);
    CHECK_THAT(refusal(row.first), Catch::Matchers::ContainsSubstring(row.second));
}

TEST_CASE("json: an integer beyond 64 bits is refused, not rounded") {
    CHECK_THAT(refusal(R"({"r":18446744073709551616})"), Catch::Matchers::ContainsSubstring("18446744073709551616"));
    CHECK_THAT(refusal(R"({"r":-9223372036854775809})"), Catch::Matchers::ContainsSubstring("beyond 64 bits"));
    CHECK(parse_json("-9223372036854775808").as_integer() == std::numeric_limits<std::int64_t>::min());
}

TEST_CASE("json: nesting is taken up to the limit and refused beyond, however deep") {
    CHECK_NOTHROW(parse_json(nested(128)));
    CHECK_THAT(refusal(nested(129)), Catch::Matchers::ContainsSubstring("128 levels"));
    CHECK_THAT(refusal(nested(1'000'000)), Catch::Matchers::ContainsSubstring("128 levels"));
    std::string open;
    for (int i = 0; i < 200'000; ++i) open += "{\"a\":";
    CHECK_THAT(refusal(open), Catch::Matchers::ContainsSubstring("128 levels"));
}

TEST_CASE("json: text comes out as Python's json.dumps(indent=2, sort_keys=True) writes it") {
    // written by Python 3.11
    const std::string python = "{\n  \"a\": {},\n  \"b\": [\n    1,\n    0,\n    0.0,\n    -0.0,\n    1e-05,\n    1e+16,\n    123456.75,\n"
                               "    1000000000000000.0,\n    0.0001,\n    1.5e+22,\n    1.7976931348623157e+308,\n    2.2250738585072014e-308,\n    -2.5\n  ],\n"
                               "  \"c\": [],\n  \"\\u00e9\\ud83d\\ude00\\u007f\": \"\\n\\u0001\\\"\\\\/\"\n}";
    const Value value = parse_json(
        "{\"c\":[],\"\xc3\xa9\xf0\x9f\x98\x80\x7f\":\"\\n\\u0001\\\"\\\\\\/\",\"b\":[1,-0,0.0,-0.0,1e-5,1e16,123456.75,1e15,0.0001,15e21,"
        "1.7976931348623157e308,2.2250738585072014e-308,-2.5],\"a\":{}}");
    CHECK(dump_json(value) == python);
    CHECK(parse_json(python) == value);
    CHECK(dump_json(parse_json(python)) == python);
    CHECK(dump_json(Value(std::vector<Value>{1, Value(), Value(Value::Object{})}), -1) == "[1, null, {}]");
}

TEST_CASE("json: every double survives writing and reading") {
    std::uint64_t state = 1;
    for (int i = 0; i < 20'000; ++i) {
        state = state * 6364136223846793005u + 1442695040888963407u;
        std::uint64_t bits = state ^ (state >> 29);
        if (i % 3 == 0) bits = (bits & 0x800fffffffffffffu) | (std::uint64_t{1023 - 20 + static_cast<std::uint64_t>(i) % 80} << 52);   // near 1
        const auto value = std::bit_cast<double>(bits);
        if (!is_finite(value)) continue;
#if defined(__FAST_MATH__)
        if ((bits & 0x7ff0000000000000u) == 0) continue;   // the processor is told to take subnormals for zero
#endif
        const Value back = parse_json(dump_json(Value(value)));
        if (!back.is_real() || std::bit_cast<std::uint64_t>(back.as_real()) != std::bit_cast<std::uint64_t>(value)) FAIL(dump_json(Value(value)));
    }
}

TEST_CASE("json: what JSON cannot hold is not written") {
    CHECK_THROWS_AS(dump_json(Value(std::numeric_limits<double>::infinity())), FormatError);
    CHECK_THROWS_AS(dump_json(Value(std::numeric_limits<double>::quiet_NaN())), FormatError);
    CHECK_THROWS_AS(dump_json(Value("\xff")), FormatError);
    Value deep;
    for (int i = 0; i < 200; ++i) deep = Value(Value::Array{std::move(deep)});
    CHECK_THROWS_AS(dump_json(deep), FormatError);
}

TEST_CASE("json: many keys are read in time that grows with their number only") {
    // a quadratic search for duplicates would take minutes
    std::string text = "{";
    for (long i = 0; i < 300'000; ++i) text.append(i == 0 ? "\"k" : ",\"k").append(std::to_string(i * 7919)).append("\":1");
    CHECK(parse_json(text + "}").as_object().size() == 300'000);
    CHECK_THAT(refusal(text + ",\"k0\":1}"), Catch::Matchers::ContainsSubstring("k0: a key is given twice"));
}
