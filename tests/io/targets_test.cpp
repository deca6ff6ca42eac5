#include "support/catch.hpp"

#include <peft/io/json.hpp>
#include <peft/io/targets.hpp>

#include <string>
#include <utility>
#include <vector>

#include "io/scratch.hpp"

using namespace peft;
using peft::io::BiasMode;
using peft::io::TargetRules;

namespace {

TargetRules rules(std::string_view config) { return TargetRules(io::parse_json(config), "adapter_config.json"); }

std::string refusal(std::string_view config) {
    try {
        rules(config);
    } catch (const FormatError& error) {
        CHECK(error.context().file == "adapter_config.json");
        CHECK(test::fit_for_a_log(error.what()));
        return error.what();
    }
    return "accepted";
}

}  // namespace

TEST_CASE("targets: a list names whole modules or what follows a dot at their end") {
    const TargetRules r = rules(R"({"target_modules":["q_proj","mlp.up"]})");
    CHECK(r.targets("q_proj"));
    CHECK(r.targets("model.layers.0.self_attn.q_proj"));
    CHECK_FALSE(r.targets("model.xq_proj"));
    CHECK_FALSE(r.targets("q_proj.x"));
    CHECK(r.targets("a.mlp.up"));
    CHECK_FALSE(r.targets("a.xmlp.up"));
    CHECK_FALSE(r.targets("up"));
    CHECK_FALSE(r.targets(""));
    CHECK_FALSE(rules(R"({"target_modules":["proj"]})").targets("q_proj"));
    CHECK_FALSE(rules(R"({"target_modules":["q.proj"]})").targets("a.qxproj"));   // no pattern
}

TEST_CASE("targets: a string is a pattern for the whole name") {
    const TargetRules r = rules(R"({"target_modules":".*\\.(q|v)_proj"})");
    CHECK(r.targets("model.v_proj"));
    CHECK_FALSE(r.targets("v_proj"));
    CHECK_FALSE(r.targets("model.v_proj.x"));
}

TEST_CASE("targets: all-linear in any case means all but the output embedding") {
    const Value config = io::parse_json(R"({"target_modules":"All-Linear","exclude_modules":["fc2"]})");
    const std::vector<std::string> head{"lm_head"};
    const TargetRules r(config, "", head);
    CHECK(r.targets("model.fc1"));
    CHECK_FALSE(r.targets("model.fc2"));
    CHECK_FALSE(r.targets("lm_head"));
    CHECK_FALSE(r.targets("model.lm_head"));
    CHECK(r.targets("model.xlm_head"));
}

TEST_CASE("targets: exclusion comes first, by list or pattern") {
    CHECK_FALSE(rules(R"({"target_modules":["q"],"exclude_modules":["b.q"]})").targets("a.b.q"));
    CHECK(rules(R"({"target_modules":["q"],"exclude_modules":["b.q"]})").targets("a.c.q"));
    CHECK_FALSE(rules(R"({"target_modules":["q"],"exclude_modules":"a\\..*"})").targets("a.q"));
    CHECK(rules(R"({"target_modules":["q"],"exclude_modules":null})").targets("a.q"));
    CHECK(rules(R"({"target_modules":["q"],"exclude_modules":[]})").targets("a.q"));
}

TEST_CASE("targets: modules saved in full, and what lies inside them, are not adapted") {
    const TargetRules r = rules(R"({"target_modules":["dense"],"modules_to_save":["score","cls.?"]})");
    CHECK(r.saved_in_full("score"));
    CHECK(r.saved_in_full("model.score"));
    CHECK(r.saved_in_full("model.score.dense"));
    CHECK_FALSE(r.saved_in_full("model.scores"));
    CHECK_FALSE(r.saved_in_full("model.xscore"));
    CHECK(r.saved_in_full("model.cls2"));
    CHECK_FALSE(r.targets("model.score.dense"));
    CHECK(r.targets("model.dense"));
}

TEST_CASE("targets: layers are chosen by their number") {
    const TargetRules one = rules(R"({"target_modules":["q"],"layers_to_transform":0})");
    CHECK(one.targets("m.layers.0.q"));
    CHECK_FALSE(one.targets("m.layers.1.q"));
    CHECK_FALSE(one.targets("m.q"));
    const TargetRules many = rules(R"({"target_modules":["q"],"layers_to_transform":[7,2],"layers_pattern":["h","blocks"]})");
    CHECK(many.targets("m.blocks.2.q"));
    CHECK(many.targets("m.h.7.q"));
    CHECK_FALSE(many.targets("m.layers.2.q"));
    CHECK_FALSE(many.targets("m.blocks.2.h.3.q"));   // "h" matches first, and decides
    CHECK(rules(R"({"target_modules":["q"],"layers_to_transform":[],"layers_pattern":""})").targets("m.layers.1.q"));
}

TEST_CASE("targets: a module listed by its whole name is meant whatever its layer") {
    const TargetRules r = rules(R"({"target_modules":["head","model.layers.3.up","down"],"layers_to_transform":[1]})");
    CHECK(r.targets("head"));
    CHECK(r.targets("model.layers.3.up"));
    CHECK(r.targets("model.layers.1.down"));
    CHECK_FALSE(r.targets("model.layers.3.down"));
    CHECK_FALSE(r.targets("model.head"));
}

TEST_CASE("targets: rank and alpha come from the first key in the file that matches") {
    const TargetRules r = rules(R"({"rank_pattern":{"^model.q":1,"z.*q":2,"b.q":3,"q":4,"layers.[0-3].v":5},"alpha_pattern":{"q":16,"v":0.5}})");
    CHECK(r.rank_for("model.q") == 1u);
    CHECK(r.rank_for("x.model.q") == 4u);
    CHECK(r.rank_for("a.zzz.q") == 2u);
    CHECK(r.rank_for("a.b.q") == 3u);
    CHECK(r.rank_for("a.xb.q") == 4u);
    CHECK(r.rank_for("q") == 4u);
    CHECK_FALSE(r.rank_for("xq").has_value());
    CHECK_FALSE(r.rank_for("q.x").has_value());
    CHECK(r.rank_for("m.layers.2.v") == 5u);
    CHECK(r.alpha_for("a.q") == 16.0);
    CHECK(r.alpha_for("a.v") == 0.5);
    CHECK_FALSE(r.alpha_for("k").has_value());
    // alternatives in a key stay inside it
    CHECK_FALSE(rules(R"({"rank_pattern":{"a|b":2}})").rank_for("a.c").has_value());
    CHECK(rules(R"({"rank_pattern":{"a|b":2}})").rank_for("x.b") == 2u);
}

TEST_CASE("targets: the rank pattern of AdaLoRA, which holds masks, is left alone") {
    CHECK(refusal(R"({"peft_type":"ADALORA","rank_pattern":{"m.lora_E":[true,false]}})") == "accepted");
    CHECK_THAT(refusal(R"({"peft_type":"LORA","rank_pattern":{"m.lora_E":[true,false]}})"), Catch::Matchers::ContainsSubstring("rank_pattern"));
}

TEST_CASE("targets: bias is none, all, or that of the changed layers, named after the type") {
    CHECK(rules("{}").bias() == BiasMode::none);
    CHECK(rules(R"({"bias":"none"})").bias() == BiasMode::none);
    CHECK(rules(R"({"bias":"all"})").bias() == BiasMode::all);
    CHECK(rules(R"({"bias":"lora_only"})").bias() == BiasMode::adapted);
    CHECK(rules(R"({"bias":"boft_only","peft_type":"BOFT"})").bias() == BiasMode::adapted);
}

TEST_CASE("targets: a wrong value is refused with its key, what was expected and what was found") {
    struct Row {
        const char* config;
        const char* key;
        const char* found;
    };
    const std::vector<Row> rows{
        {"[]", "configuration", "found an empty array"},
        {R"({"target_modules":5})", "target_modules", "found 5"},
        {R"({"target_modules":true})", "target_modules", "found true"},
        {R"({"target_modules":{}})", "target_modules", "found an empty object"},
        {R"({"target_modules":null})", "target_modules", "found null"},
        {R"({"target_modules":[]})", "target_modules", "found an empty array"},
        {R"({"target_modules":""})", "target_modules", "found \"\""},
        {R"({"target_modules":["q",""]})", "target_modules", "found \"\""},
        {R"({"target_modules":["q",5]})", "target_modules", "found 5"},
        {R"({"target_modules":[null]})", "target_modules", "found null"},
        {R"({"target_modules":"("})", "target_modules", "unterminated group at offset 0"},
        {R"({"exclude_modules":5})", "exclude_modules", "found 5"},
        {R"({"exclude_modules":"["})", "exclude_modules", "offset 0"},
        {R"({"modules_to_save":"score"})", "modules_to_save", "found \"score\""},
        {R"({"modules_to_save":[""]})", "modules_to_save", "found \"\""},
        {R"({"modules_to_save":["a("]})", "modules_to_save", "offset 1"},
        {R"({"target_modules":["q"],"layers_to_transform":[-1]})", "layers_to_transform", "found -1"},
        {R"({"target_modules":["q"],"layers_to_transform":"1"})", "layers_to_transform", "found \"1\""},
        {R"({"target_modules":["q"],"layers_to_transform":[1.0]})", "layers_to_transform", "found 1.0"},
        {R"({"target_modules":["q"],"layers_to_transform":true})", "layers_to_transform", "found true"},
        {R"({"target_modules":".*q","layers_to_transform":[1]})", "layers_to_transform", "null, since"},
        {R"({"target_modules":"all-linear","layers_to_transform":1})", "layers_to_transform", "null, since"},
        {R"({"target_modules":["q"],"layers_pattern":"h"})", "layers_pattern", "found \"h\""},
        {R"({"target_modules":["q"],"layers_to_transform":1,"layers_pattern":5})", "layers_pattern", "found 5"},
        {R"({"target_modules":["q"],"layers_to_transform":1,"layers_pattern":"("})", "layers_pattern", "offset 0"},
        {R"({"rank_pattern":[]})", "rank_pattern", "found an empty array"},
        {R"({"rank_pattern":{"q":0}})", "rank_pattern[\"q\"]", "found 0"},
        {R"({"rank_pattern":{"q":-1}})", "rank_pattern[\"q\"]", "found -1"},
        {R"({"rank_pattern":{"q":"2"}})", "rank_pattern[\"q\"]", "found \"2\""},
        {R"({"rank_pattern":{"q":2.0}})", "rank_pattern[\"q\"]", "found 2.0"},
        {R"({"rank_pattern":{"q":null}})", "rank_pattern[\"q\"]", "found null"},
        {R"({"rank_pattern":{"q":true}})", "rank_pattern[\"q\"]", "found true"},
        {R"({"rank_pattern":{"q":1000000000000000000}})", "rank_pattern[\"q\"]", "found 1000000000000000000"},
        {R"({"rank_pattern":{"q":18446744073709551615}})", "rank_pattern[\"q\"]", "found 18446744073709551615"},
        {R"({"rank_pattern":{"q(":2}})", "rank_pattern[\"q(\"]", "unterminated group"},
        {R"({"alpha_pattern":[1]})", "alpha_pattern", "found an array of 1"},
        {R"({"alpha_pattern":{"q":"2"}})", "alpha_pattern[\"q\"]", "found \"2\""},
        {R"({"alpha_pattern":{"q":null}})", "alpha_pattern[\"q\"]", "found null"},
        {R"({"bias":"sometimes"})", "bias", "found \"sometimes\""},
        {R"({"bias":true})", "bias", "found true"},
        {R"({"bias":"boft_only","peft_type":"LORA"})", "bias", "\"lora_only\""},
    };
    for (const Row& row : rows) {
        CAPTURE(row.config);
        const std::string message = refusal(row.config);
        CHECK_THAT(message, Catch::Matchers::ContainsSubstring(row.key) && Catch::Matchers::ContainsSubstring(row.found));
    }
}

TEST_CASE("targets: without target_modules nothing is adapted; null needs something else to train") {
    CHECK_FALSE(rules("{}").targets("q"));
    CHECK_FALSE(rules(R"({"target_modules":null,"modules_to_save":["score"]})").targets("q"));
    CHECK_FALSE(rules(R"({"target_modules":null,"target_parameters":["experts.w1"]})").targets("q"));
    CHECK(refusal(R"({"target_modules":null,"modules_to_save":null,"target_parameters":[]})") != "accepted");
}

TEST_CASE("targets: a pattern that hangs a backtracking matcher is decided at once") {
    const TargetRules r = rules(R"({"target_modules":"(a+)+$|.*[qv]_proj"})");
    CHECK_FALSE(r.targets(std::string(5'000, 'a') + "!"));
    CHECK(r.targets(std::string(5'000, 'a')));
}
