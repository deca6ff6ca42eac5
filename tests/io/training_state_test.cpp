#include "support/catch.hpp"

#include <peft/adapters/channel/ssf.hpp>
#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/io/training_state.hpp>
#include <peft/layers/chain.hpp>
#include <peft/linear/dense.hpp>
#include <peft/optim/adamw.hpp>
#include <peft/optim/lora_plus.hpp>
#include <peft/optim/sgd.hpp>

#include <sys/resource.h>

#include <algorithm>
#include <csignal>
#include <memory>

#include "io/scratch.hpp"

using namespace peft;
using peft::io::load_training_state;
using peft::io::save_training_state;
using peft::test::Scratch;

namespace {

struct Setup {
    std::size_t rank = 3;
    double alpha = 6;
    double dropout = 0.25;
    std::uint64_t seed = 1;
    double base_weight = 0.25;
    double ratio = 16;
    double beta2 = 0.99;
    std::size_t total = 40;
    std::uint64_t stream = 11;
    const char* second = "fc2";
};

/// Two layers, an embedding beside them, and all that trains them.
template <class T> struct Run {
    using First = Adapted<DenseLinear<T>&, LoRA<T>>;
    using Second = Adapted<DenseLinear<T>&, AnyAdapter<T>>;

    explicit Run(Setup o = {})
        : fc1(LayerShape{.in = 6, .out = 5}), fc2(LayerShape{.in = 5, .out = 4}), embedding(3, 6),
          schedule{.kind = ScheduleKind::cosine, .peak = 0.02, .warmup = 5, .total = o.total, .floor = 0.001} {
        for (auto* layer : {&fc1, &fc2}) fill_normal<T>({.seed = 7, .stream = layer->shape().in}, 0, o.base_weight, layer->stored().flat());
        fill_normal<T>({.seed = 9}, 0, 1, embedding.state()->value.flat());
        embedding.require_grad();
        layer1 = std::make_unique<First>(adapt(fc1, LoRA<T>(fc1.shape(), {.rank = o.rank, .alpha = o.alpha, .dropout = o.dropout, .seed = o.seed}), o.stream));
        std::vector<AnyAdapter<T>> parts;
        parts.emplace_back(DoRA<T>(fc2.shape(), {.rank = 2, .dropout = o.dropout, .seed = o.seed}));
        parts.emplace_back(SSF<T>(fc2.shape()));
        layer2 = std::make_unique<Second>(adapt(fc2, AnyAdapter<T>(Chain<T>(std::move(parts))), 12));
        tape1 = std::make_unique<typename First::Tape>(layer1->make_tape());
        tape2 = std::make_unique<typename Second::Tape>(layer2->make_tape(5));
        optimizer = std::make_unique<AdamW<T>>(lora_plus_groups(parameters(*layer1, *layer2), {.ratio = o.ratio}), AdamWOptions{.beta2 = o.beta2});
        words = std::make_unique<SGD<T>>(ParameterList<T>{{"embedding", embedding.state()}}, SGDOptions{.momentum = 0.9});
        state.add("fc1", *layer1, *tape1);
        state.add(o.second, *layer2, *tape2);
        state.add("embedding", embedding);
        state.add("optimizer", *optimizer);
        state.add("words", *words);
        state.add("schedule", schedule);
        state.cursor("step", step);
        state.constant("data seed", 4);
    }

    void train(std::size_t steps) {
        Matrix<T> x(8, 6), h(8, 5), y(8, 4), dh(8, 5), dx(8, 6);
        for (const std::uint64_t last = step + steps; step < last;) {
            for (std::size_t i = 0; i < x.rows(); ++i) {
                for (std::size_t j = 0; j < x.cols(); ++j) x(i, j) = embedding.value()((i + step) % 3, j);
            }
            optimizer->set_learning_rate(schedule.at(step));
            words->set_learning_rate(schedule.at(step));
            layer1->forward(x, h, *tape1);
            layer2->forward(h, y, *tape2);
            layer2->backward(y, dh, *tape2);   // the loss is sum y^2 / 2
            layer1->backward(dh, dx, *tape1);
            for (std::size_t i = 0; i < x.rows(); ++i) {
                for (std::size_t j = 0; j < x.cols(); ++j) embedding.grad()((i + step) % 3, j) += dx(i, j);
            }
            optimizer->step();
            words->step();
            optimizer->zero_grad();
            words->zero_grad();
            ++step;
        }
    }
    std::string saved(const Scratch& scratch) const {
        save_training_state(scratch / "probe", state);
        return test::contents(scratch / "probe");
    }

    DenseLinear<T> fc1, fc2;
    Parameter<T> embedding;
    Schedule schedule;
    std::unique_ptr<First> layer1;
    std::unique_ptr<Second> layer2;
    std::unique_ptr<typename First::Tape> tape1;
    std::unique_ptr<typename Second::Tape> tape2;
    std::unique_ptr<AdamW<T>> optimizer;
    std::unique_ptr<SGD<T>> words;
    io::TrainingState<T> state;
    std::uint64_t step = 0;
};

template <class State> std::string refusal(const std::string& path, State& state) {
    try {
        load_training_state(path, state);
    } catch (const FormatError& error) {
        CHECK(test::fit_for_a_log(error.what()));
        CHECK(error.context().file == path);
        return error.what();
    }
    return "accepted";
}

/// The file with other metadata or tensors: read, changed by f, and written again with a checksum that fits when `sealed`.
template <class F> void rewrite(const std::string& from, const std::string& to, F&& f, bool sealed = true) {
    const io::SafetensorsFile file(from);
    io::Metadata metadata = file.metadata();
    std::vector<std::vector<std::byte>> bytes;
    std::vector<io::TensorData> tensors;
    for (const auto& info : file.tensors()) bytes.push_back(file.read_bytes(info.name));
    for (std::size_t i = 0; i < bytes.size(); ++i) tensors.push_back({file.tensors()[i].name, file.tensors()[i].dtype, file.tensors()[i].shape, bytes[i]});
    f(metadata, tensors);
    if (sealed) {
        detail::StateChecksum checksum;
        for (const auto& tensor : tensors) checksum.add(tensor.bytes);
        metadata["checksum"] = checksum.text(metadata);
    }
    io::write_safetensors(to, tensors, metadata);
}

}  // namespace

TEMPLATE_TEST_CASE("training_state: stopped and resumed gives the bytes of a run that never stopped", "", float, double) {
    using T = TestType;
    const Scratch scratch;
    Run<T> straight;
    straight.train(40);

    for (const std::size_t stop : {0u, 1u, 13u, 39u}) {
        INFO("stopped after " << stop);
        Run<T> first;
        first.train(stop);
        save_training_state(scratch / "state", first.state);
        Run<T> second;
        second.train(3);   // whatever was there is written over
        load_training_state(scratch / "state", second.state);
        CHECK(second.step == stop);
        CHECK(second.optimizer->steps() == stop);
        CHECK(second.tape1->step() == stop);
        CHECK(second.optimizer->learning_rate() == first.optimizer->learning_rate());
        CHECK(second.saved(scratch) == test::contents(scratch / "state"));
        second.train(40 - stop);
        CHECK(second.saved(scratch) == straight.saved(scratch));
    }
}

TEST_CASE("training_state: loading raises versions, so that stale derived values are not used, and clears gradients") {
    const Scratch scratch;
    Run<double> run;
    run.train(2);
    run.layer2->prepare();
    const Matrix<double> x(2, 5);
    CHECK_NOTHROW(run.layer2->forward(x));
    save_training_state(scratch / "state", run.state);
    run.embedding.grad()(0, 0) = 3;
    load_training_state(scratch / "state", run.state);
    CHECK_THROWS_AS(run.layer2->forward(x), StateError);
    CHECK(run.embedding.grad()(0, 0) == 0);
    run.layer2->prepare();
    CHECK_NOTHROW(run.layer2->forward(x));
}

TEST_CASE("training_state: a state of another model, option or optimizer is refused by name and changes nothing") {
    const Scratch scratch;
    Run<float> source;
    source.train(7);
    save_training_state(scratch / "state", source.state);
    const auto refuses = [&](const Setup& setup, std::initializer_list<const char*> words) {
        Run<float> other(setup);
        other.train(2);
        const std::string before = other.saved(scratch);
        const std::string message = refusal(scratch / "state", other.state);
        for (const char* word : words) CHECK_THAT(message, Catch::Matchers::ContainsSubstring(word));
        CHECK(other.saved(scratch) == before);
    };
    refuses({.rank = 4}, {"layer/fc1/lora_A", "expected F32 [4, 6]", "found F32 [3, 6]"});
    refuses({.alpha = 7}, {"layer/fc1/method/0/lora_alpha", "expected 7.0", "found 6.0"});
    refuses({.dropout = 0.5}, {"lora_dropout", "expected 0.5", "found 0.25"});
    refuses({.seed = 2}, {"seed", "expected 2", "found 1"});
    refuses({.base_weight = 0.5}, {"layer/fc1/base: "});
    refuses({.ratio = 8}, {"optimizer/optimizer/group/1/learning_rate_factor", "expected 8", "found 16"});
    refuses({.beta2 = 0.999}, {"optimizer/optimizer/option/beta2", "expected 0.999", "found 0.99"});
    refuses({.total = 50}, {"schedule/schedule/total", "expected 50", "found 40"});
    refuses({.stream = 3}, {"layer/fc1/stream", "expected 3", "found 11"});
    refuses({.second = "fc3"}, {"layer/fc3/", "expected F32", "found nothing"});

    Run<double> wide;
    CHECK_THAT(refusal(scratch / "state", wide.state), Catch::Matchers::ContainsSubstring("type") && Catch::Matchers::ContainsSubstring("expected F64, found F32"));
    CHECK(wide.step == 0);

    SECTION("more or less than was saved") {
        Run<float> more, bare;
        std::uint64_t epoch = 5;
        more.state.cursor("epoch", epoch);
        CHECK_THAT(refusal(scratch / "state", more.state), Catch::Matchers::ContainsSubstring("cursor/epoch"));
        CHECK(epoch == 5);
        io::TrainingState<float> less;
        less.add("fc1", *bare.layer1, *bare.tape1);
        CHECK_THAT(refusal(scratch / "state", less), Catch::Matchers::ContainsSubstring("not added here"));
        io::TrainingState<float> no_tape;
        no_tape.add("fc1", *bare.layer1);
        save_training_state(scratch / "one", less);
        CHECK_THAT(refusal(scratch / "one", no_tape), Catch::Matchers::ContainsSubstring("layer/fc1/tape/0/step"));
        save_training_state(scratch / "one", no_tape);
        CHECK_THAT(refusal(scratch / "one", less), Catch::Matchers::ContainsSubstring("layer/fc1/tape/0/str"));
    }
    SECTION("another kind of optimizer, the same kind without moments, and another order of parameters") {
        Run<float> run;
        const auto state_with = [&](auto& optimizer) {
            io::TrainingState<float> state;
            state.add("fc1", *run.layer1, *run.tape1);
            state.add("optimizer", optimizer);
            return state;
        };
        SGD<float> plain(parameters(*run.layer1));
        SGD<float> moving(parameters(*run.layer1), {.momentum = 0.9});
        AdamW<float> adamw(parameters(*run.layer1));
        auto list = parameters(*run.layer1);
        std::swap(list[0], list[1]);
        SGD<float> swapped(list);
        auto a = state_with(plain), b = state_with(moving), c = state_with(adamw), d = state_with(swapped);
        save_training_state(scratch / "plain", a);
        CHECK(refusal(scratch / "plain", a) == "accepted");
        CHECK_THAT(refusal(scratch / "plain", b), Catch::Matchers::ContainsSubstring("momentum") && Catch::Matchers::ContainsSubstring("expected 0.9, found 0"));
        CHECK_THAT(refusal(scratch / "plain", c), Catch::Matchers::ContainsSubstring("optimizer/optimizer/kind") && Catch::Matchers::ContainsSubstring("expected adamw, found sgd"));
        CHECK_THAT(refusal(scratch / "plain", d), Catch::Matchers::ContainsSubstring("number 0, group 0"));
    }
}

TEST_CASE("training_state: a file that lacks something or holds no number is refused by name and changes nothing") {
    const Scratch scratch;
    Run<float> source;
    source.train(7);
    save_training_state(scratch / "state", source.state);
    Run<float> run;
    run.train(2);
    const std::string before = run.saved(scratch);
    const auto refuses = [&](auto&& change, const std::string& word, bool sealed = true) {
        rewrite(scratch / "state", scratch / "changed", change, sealed);
        CHECK_THAT(refusal(scratch / "changed", run.state), Catch::Matchers::ContainsSubstring(word));
        CHECK(run.saved(scratch) == before);
    };
    using Tensors = std::vector<io::TensorData>;
    refuses([](io::Metadata& m, Tensors&) { m["optimizer/optimizer/steps"] = "nan"; }, "optimizer/optimizer/steps: not a number");
    refuses([](io::Metadata& m, Tensors&) { m["optimizer/optimizer/steps"] = "-1"; }, "found -1");
    refuses([](io::Metadata& m, Tensors&) { m["optimizer/optimizer/steps"] = "18446744073709551616"; }, "not a number");
    refuses([](io::Metadata& m, Tensors&) { m["optimizer/words/learning_rate"] = "nan"; }, "optimizer/words/learning_rate: not a number");
    refuses([](io::Metadata& m, Tensors&) { m["layer/fc1/tape/0/step"] = ""; }, "layer/fc1/tape/0/step: not a number");
    refuses([](io::Metadata& m, Tensors&) { m["cursor/step"] = "7 "; }, "cursor/step: not a number");
    refuses([](io::Metadata& m, Tensors&) { m["version"] = "2"; }, "version: another one in the training state (expected 1, found 2)");
    refuses([](io::Metadata& m, Tensors&) { m.erase("format"); }, "format: not in the training state");
    refuses([](io::Metadata& m, Tensors&) { m.erase("cursor/step"); }, "cursor/step");
    refuses([](io::Metadata&, Tensors& t) { t.erase(t.begin()); }, "layer/fc1/lora_A: the training state lacks this tensor");
    refuses([](io::Metadata&, Tensors& t) {
        t.erase(std::find_if(t.begin(), t.end(), [](const auto& tensor) { return tensor.name == "optimizer/optimizer/layer/fc1/lora_B/second"; }));
    }, "optimizer/optimizer/layer/fc1/lora_B/second: the training state lacks this tensor (expected F32 [15], found nothing)");
    refuses([](io::Metadata&, Tensors& t) { t.push_back({"more", io::Dtype::F32, {0}, {}}); }, "more: the training state holds a tensor");
    refuses([](io::Metadata& m, Tensors&) { m["cursor/step"] = "8"; }, "checksum", false);
    refuses([](io::Metadata& m, Tensors&) { m.erase("checksum"); }, "checksum: not in", false);

    const std::string whole = test::contents(scratch / "state");
    for (std::size_t size = 0; size < whole.size(); size += 97) {
        test::store(scratch / "changed", std::string_view(whole).substr(0, size));
        CHECK(refusal(scratch / "changed", run.state) != "accepted");
    }
    CHECK(run.saved(scratch) == before);
    test::store(scratch / "changed", io::dump_json(Value("text")));
    CHECK(refusal(scratch / "changed", run.state) != "accepted");
    CHECK_THROWS_AS(load_training_state(scratch / "nothing", run.state), FileError);
}

TEST_CASE("training_state: a state with any one bit changed is refused and changes nothing") {
    const Scratch scratch;
    Run<float> source;
    source.train(3);
    save_training_state(scratch / "state", source.state);
    const std::string whole = test::contents(scratch / "state");
    Run<float> run;
    const std::string before = run.saved(scratch);
    const CounterRandom random({.seed = 5});
    for (std::size_t at = 0; at < whole.size(); ++at) {
        std::string changed = whole;
        changed[at] = static_cast<char>(static_cast<unsigned char>(changed[at]) ^ (1u << (random.bits(at) % 8)));
        test::store(scratch / "changed", changed);
        INFO("byte " << at << " of " << whole.size());
        REQUIRE(refusal(scratch / "changed", run.state) != "accepted");
        if (at % 256 == 0) REQUIRE(run.saved(scratch) == before);
    }
    CHECK(run.saved(scratch) == before);
}

TEST_CASE("training_state: a fault while saving keeps the old state") {
    const Scratch scratch;
    Run<double> run;
    run.train(2);
    save_training_state(scratch / "state", run.state);
    const std::string old = test::contents(scratch / "state");
    run.train(2);
    rlimit before{};
    REQUIRE(::getrlimit(RLIMIT_FSIZE, &before) == 0);
    const auto old_handler = std::signal(SIGXFSZ, SIG_IGN);
    const rlimit small{old.size() / 2, before.rlim_max};
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &small) == 0);
    bool refused = false;
    try {
        save_training_state(scratch / "state", run.state);
    } catch (const FileError&) {
        refused = true;
    }
    REQUIRE(::setrlimit(RLIMIT_FSIZE, &before) == 0);
    std::signal(SIGXFSZ, old_handler);
    CHECK(refused);
    CHECK(test::contents(scratch / "state") == old);
    CHECK(scratch.names().size() == 1);
    load_training_state(scratch / "state", run.state);
    CHECK(run.step == 2);
}

TEST_CASE("training_state: what cannot be resumed is refused when it is added or saved") {
    const Scratch scratch;
    Run<float> run;
    CHECK_THROWS_AS(run.state.add("fc1", *run.layer1), OptionError);
    CHECK_THROWS_AS(run.state.cursor("step", run.step), OptionError);
    CHECK_THROWS_AS(run.state.add("optimizer", *run.optimizer), OptionError);
    io::TrainingState<float> state;
    state.add("optimizer", *run.optimizer);
    CHECK_THROWS_WITH(save_training_state(scratch / "state", state), Catch::Matchers::ContainsSubstring("optimizer: lora_A"));
    CHECK(scratch.names().empty());
    run.layer1->merge();
    io::TrainingState<float> merged;
    CHECK_THROWS_AS(merged.add("fc1", *run.layer1), StateError);
}
