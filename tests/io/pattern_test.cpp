#include "support/catch.hpp"

#include <peft/io/pattern.hpp>

#include <chrono>
#include <string>
#include <utility>
#include <vector>

#include "io/scratch.hpp"

using namespace peft;
using peft::io::Pattern;

namespace {

std::string refusal(std::string_view pattern) {
    try {
        Pattern p(pattern, "some.json", "target_modules");
    } catch (const FormatError& error) {
        CHECK(error.context().file == "some.json");
        CHECK(error.context().subject == "target_modules");
        CHECK(test::fit_for_a_log(error.what()));
        return error.what();
    }
    return "accepted";
}

struct Row {
    const char* pattern;
    const char* text;
    bool full;     // Python's re.fullmatch
    bool prefix;   // re.match
};

}  // namespace

TEST_CASE("pattern: full and prefix matches are those of Python's re") {
    // the verdicts were written by Python 3.11 with re.ASCII
    const std::vector<Row> rows{
        {"", "", true, true},
        {"", "a", false, true},
        {"abc", "abc", true, true},
        {"abc", "abcd", false, true},
        {"abc", "xabc", false, false},
        {"a|ab", "ab", true, true},
        {"(a|ab)(c|bcd)", "abcd", true, true},
        {".*\\.q_proj", "model.layers.0.q_proj", true, true},
        {".*\\.q_proj", "model.layers.0xq_proj", false, false},
        {".*[qv]_proj", "a.v_proj", true, true},
        {".*[^qv]_proj", "a.v_proj", false, false},
        {"model\\.layers\\.(0|1[0-2])\\..*", "model.layers.11.mlp", true, true},
        {"model\\.layers\\.(0|1[0-2])\\..*", "model.layers.13.mlp", false, false},
        {"a{2,3}", "a", false, false},
        {"a{2,3}", "aaaa", false, true},
        {"a{2}", "aa", true, true},
        {"a{,2}", "aaa", false, true},
        {"a{2,}", "aaaaa", true, true},
        {"a{,}", "aaa", true, true},
        {"a{", "a{", true, true},
        {"a{}", "a{}", true, true},
        {"a{2", "a{2", true, true},
        {"x{a}", "x{a}", true, true},
        {"a*?b", "aaab", true, true},
        {"a??", "a", true, true},
        {"(a*)*", "aaa", true, true},
        {"(a|)*b", "aab", true, true},
        {"(?:ab)+", "ababab", true, true},
        {"(?:ab)+", "ababa", false, true},
        {"a$", "a\n", false, true},
        {"a$", "a\n\n", false, false},
        {"a$\n", "a\n", true, true},
        {"a\\Z", "a\n", false, false},
        {"^a^", "a", false, false},
        {"(^|b)a", "a", true, true},
        {"\\Aa", "a", true, true},
        {".", "\n", false, false},
        {"[^a]", "\n", true, true},
        {"\\d+\\D\\w\\W\\s\\S", "12xy- z", true, true},
        {"[\\d_]+", "1_2", true, true},
        {"[]a]+", "]a", true, true},
        {"[^]a]", "]", false, false},
        {"[a-]+", "a-", true, true},
        {"[a\\-z]+", "a-z", true, true},
        {"[a\\-z]", "b", false, false},
        {"[a-c]+", "abcd", false, true},
        {"[\\b]", "\b", true, true},
        {"\\bq\\b", "q", true, true},
        {".*\\bq", "q_q", false, true},
        {".*\\Bq", "q_q", true, true},
        {"\\B", "", false, false},
        {"\\x61\\u0062\\-\\.\\/", "ab-./", true, true},
        {"\xc3\xa9.", "\xc3\xa9\xe6\xa8\xa1", true, true},
        {"[\xc3\xa8-\xc3\xaa]", "\xc3\xa9", true, true},
        {"[^a]", "\xf0\x9f\x98\x80", true, true},
        {"\\W", "\xc3\xa9", true, true},
    };
    for (const Row& row : rows) {
        CAPTURE(row.pattern, row.text);
        const Pattern pattern(row.pattern);
        CHECK(pattern.full_match(row.text) == row.full);
        CHECK(pattern.match_prefix(row.text) == row.prefix);
    }
}

TEST_CASE("pattern: what is not a pattern is refused with its fault and offset") {
    using Fault = std::pair<const char*, const char*>;
    const auto row = GENERATE(values<Fault>({
        {"(", "unterminated group at offset 0"},
        {"a)", "unbalanced parenthesis at offset 1"},
        {"ab[c", "unterminated character set at offset 2"},
        {"a\\", "backslash at the end at offset 1"},
        {"*a", "nothing to repeat at offset 0"},
        {"a|*", "nothing to repeat at offset 2"},
        {"(+)", "nothing to repeat at offset 1"},
        {"^*", "nothing to repeat at offset 0"},
        {"\\b+", "nothing to repeat at offset 0"},
        {"{2}", "nothing to repeat at offset 0"},
        {"a**", "multiple repeat at offset 2"},
        {"a{2}{3}", "multiple repeat at offset 4"},
        {"a{3,1}", "minimum repeat greater than maximum at offset 1"},
        {"[b-a]", "bad character range at offset 1"},
        {"[a-\\d]", "bad character range at offset 1"},
        {"\\q", "bad escape at offset 0"},
        {"\\x1", "incomplete escape at offset 0"},
        {"a++", "possessive quantifier, which is not supported, at offset 1"},
        {"(a)\\1", "backreference, which is not supported, at offset 3"},
        {"\\0", "octal escape, which is not supported, at offset 0"},
        {"a(?=b)", "lookahead, which is not supported, at offset 1"},
        {"a(?!b)", "lookahead, which is not supported, at offset 1"},
        {"(?<=b)", "lookbehind, which is not supported, at offset 0"},
        {"(?P<n>a)", "named group, which is not supported, at offset 0"},
        {"(?P=n)", "named reference, which is not supported, at offset 0"},
        {"(?i)a", "inline flags, which are not supported, at offset 0"},
        {"(?#c)", "comment, which is not supported, at offset 0"},
        {"(?>a)", "atomic group, which is not supported, at offset 0"},
    }));
    CAPTURE(row.first);
    CHECK_THAT(refusal(row.first), Catch::Matchers::ContainsSubstring(row.second));
}

TEST_CASE("pattern: size and nesting are bounded, also where repetitions multiply") {
    CHECK_THAT(refusal("((a{100}){100}){100}"), Catch::Matchers::ContainsSubstring("at most 50000 steps"));
    CHECK_THAT(refusal("((((){1000}){1000}){1000}){1000}"), Catch::Matchers::ContainsSubstring("at most 50000 steps"));
    CHECK_THAT(refusal("a{99999999}"), Catch::Matchers::ContainsSubstring("at most 50000 steps"));
    CHECK_THAT(refusal("a{99999999999999999999}"), Catch::Matchers::ContainsSubstring("repeat bound too large"));
    CHECK_THAT(refusal(std::string(60'000, 'a')), Catch::Matchers::ContainsSubstring("at most 50000 steps"));
    CHECK_THAT(refusal(std::string(1'000, '(')), Catch::Matchers::ContainsSubstring("nested deeper than 100"));
    CHECK(Pattern(std::string(100, '(') + 'a' + std::string(100, ')')).full_match("a"));
    CHECK(Pattern("a{20000}").full_match(std::string(20'000, 'a')));
}

TEST_CASE("pattern: what makes a backtracking matcher hang is matched at once") {
    const std::string text = std::string(20'000, 'a') + '!';
    const auto start = std::chrono::steady_clock::now();
    CHECK_FALSE(Pattern("(a+)+$|.*[qv]_proj").full_match(text));
    CHECK_FALSE(Pattern("(a|a)*").full_match(text));
    CHECK_FALSE(Pattern("(a*)*b").match_prefix(text));
    CHECK(Pattern("(a|aa)+!").full_match(text));
    CHECK_FALSE(Pattern("(a?){500}a{500}").full_match(std::string(499, 'a')));
    CHECK(std::chrono::steady_clock::now() - start < std::chrono::seconds(10));
}

TEST_CASE("pattern: the last group holds what a backtracking matcher would give it") {
    const auto group = [](const char* pattern, const char* text) { return std::string(Pattern(pattern).last_group(text).value_or("none")); };
    CHECK(group("(a+)(a*)", "aaa").empty());
    CHECK(group("(a+?)(a*)", "aaa") == "aa");
    CHECK(group("a(b|bc)", "abc") == "b");
    CHECK(group("a(bc|b)", "abc") == "bc");
    CHECK(group("(a)|b", "b") == "none");
    CHECK(group("(a|b)+", "aab") == "b");
    CHECK(group("(x)", "a") == "none");
    CHECK(group(".*(\\d+)", "a12") == "2");
    CHECK(group(".*?(\\d+)", "a12") == "12");
    CHECK(group("(?:a)(b(?:c))", "abc") == "bc");
}

TEST_CASE("pattern: bytes that are not UTF-8 count as characters that equal themselves only") {
    CHECK(Pattern("a.b").full_match("a\xff" "b"));
    CHECK(Pattern("a[^x]b").full_match("a\xff" "b"));
    CHECK_FALSE(Pattern("a\xc3\xbf" "b").full_match("a\xff" "b"));
    CHECK_FALSE(Pattern("..").full_match("\xe2\x82\xac"));   // one character
    CHECK(Pattern("..").full_match("\xe2\x82"));             // cut: two bytes
}

TEST_CASE("pattern: the number of a layer is found as upstream finds it") {
    using peft::io::layer_index;
    CHECK(layer_index("model.layers.12.mlp.up_proj") == 12u);
    CHECK(layer_index("model.decoder.layers.3.blocks.7.fc") == 3u);   // the first
    CHECK_FALSE(layer_index("model.layers.12").has_value());          // nothing follows
    CHECK_FALSE(layer_index("layers.12.mlp").has_value());            // nothing comes before
    CHECK_FALSE(layer_index("model.layers.x1.mlp").has_value());
    CHECK_FALSE(layer_index("").has_value());
    CHECK(layer_index("model.decoder.layers.3.blocks.7.fc", "blocks") == 7u);
    CHECK(layer_index("model.h.5.attn", "h|layers") == std::nullopt);   // upstream does not bracket the pattern: ".*?\.h" or "layers\.(\d+)\."
    CHECK(layer_index("model.h.5.attn", "(h|layers)") == 5u);
    CHECK_FALSE(layer_index("model.layers.3.fc", "blocks").has_value());
    CHECK_FALSE(layer_index("m.layers.99999999999999999999.fc").has_value());
    CHECK(layer_index("m.layers.18446744073709551615.fc") == 18446744073709551615u);
}
