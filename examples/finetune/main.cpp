// Pre-trains a small byte-level language model on one kind of text and adapts it to another kind with any method by name:
//   finetune --method all            all methods, our own headers as base text, our comments as tuning text
//   finetune --method lora,ia3 --base-text novel.txt --tune-text poems.txt --out poems
// What it writes is read back and compared; the exit status is 0 only if everything agrees.
#include "files.hpp"
#include "merge_check.hpp"
#include "methods.hpp"
#include "plot.hpp"
#include "report.hpp"

#include <peft/core/threads.hpp>

#include <CLI/CLI.hpp>

#include <algorithm>
#include <cstdio>
#include <cstring>

namespace {

using namespace finetune;
namespace fs = std::filesystem;

struct Options {
    std::vector<std::string> methods{"all"};
    std::vector<fs::path> base_text, tune_text;
    fs::path out = "finetune_out";
    std::size_t pretrain_steps = 1200;
    std::size_t steps = 300;
    std::size_t batch = 128;
    double learning_rate = 0;   // 0: the method's own
    fs::path state;
    std::size_t save_every = 100;
    bool resume = false;
    MethodSettings settings;
    ModelShape shape;
    // One thread: where cores are shared, threads that wait for each other cost more than they give at this size.
    int threads = 1;
};

void declare(CLI::App& app, Options& o) {
    const CLI::Range count(1, 1'000'000);
    std::string names;
    for (const Method& method : all_methods()) names += method.name + ", ";
    app.add_option("--method", o.methods, "Methods, separated by commas: " + names + "or all")->delimiter(',')->capture_default_str();
    app.add_option("--base-text", o.base_text, "Text to pre-train on (default: our headers without comments)")->check(CLI::ExistingFile);
    app.add_option("--tune-text", o.tune_text, "Text to adapt to (default: README.md and our comments)")->check(CLI::ExistingFile);
    app.add_option("--out", o.out, "Folder for adapters, models and the plot")->capture_default_str();
    app.add_option("--pretrain-steps", o.pretrain_steps, "Steps of pre-training")->check(count)->capture_default_str();
    app.add_option("--steps", o.steps, "Steps of fine-tuning for each method")->check(count)->capture_default_str();
    app.add_option("--batch", o.batch, "Windows in a step (pre-training takes twice as many)")->check(count)->capture_default_str();
    app.add_option("--learning-rate", o.learning_rate, "For all methods (default: each method's own)")->check(CLI::PositiveNumber);
    auto* state = app.add_option("--state", o.state, "Keep the training state of each method in FILE.<method>, to go on from later");
    app.add_option("--save-every", o.save_every, "Steps between two savings of the state")->check(count)->capture_default_str();
    app.add_flag("--resume", o.resume, "Go on from the states, with the base model in --out")->needs(state);
    app.add_option("--rank", o.settings.rank, "Rank of LoRA and its kind")->check(count)->capture_default_str();
    app.add_option("--alpha", o.settings.alpha, "Scale of LoRA and its kind, alpha / rank")->check(CLI::PositiveNumber)->capture_default_str();
    app.add_option("--seed", o.settings.seed, "The same seed gives the same numbers")->capture_default_str();
    app.add_option("--context", o.shape.context, "Bytes the model sees")->check(CLI::Range(1, 1024))->capture_default_str();
    app.add_option("--embedding", o.shape.embedding, "Numbers for each byte")->check(CLI::Range(1, 1024))->capture_default_str();
    app.add_option("--hidden", o.shape.hidden, "Width of the hidden layers")->check(CLI::Range(1, 65536))->capture_default_str();
    app.add_option("--threads", o.threads, "Threads of the library; results do not depend on it")->check(CLI::Range(1, 1024))->capture_default_str();
}

/// "all" stands for every method.
std::vector<const Method*> chosen(const std::vector<std::string>& names) {
    std::vector<const Method*> methods;
    const auto add = [&](const Method& method) {
        if (std::find(methods.begin(), methods.end(), &method) == methods.end()) methods.push_back(&method);
    };
    for (const std::string& name : names) {
        if (name != "all") add(find_method(name));
        else for (const Method& method : all_methods()) add(method);
    }
    return methods;
}

/// Trains all numbers of the model, the embedding too, and writes them into its layers.
void pretrain(LanguageModel& model, const Text& text, const Options& o) {
    Network network(model, attach(find_method("full"), o.settings), true);
    const Batch held_out = even_batch(text.held_out, 2048, o.shape.context);
    const auto result = train(network, text.train, held_out, {.steps = o.pretrain_steps, .batch = 2 * o.batch, .learning_rate = 1.5e-3, .seed = o.settings.seed, .measurements = 1}, "pre-training");
    network.visit([](std::string_view, Layer& layer) { layer.merge(peft::MergeMode::discard); });
    std::printf("pre-trained on %zu bytes: held-out loss %.3f -> %.3f nats a byte\n", text.train.size(), result.curve.front().second, result.curve.back().second);
}

bool same_bits(std::span<const float> a, std::span<const float> b) { return a.size() == b.size() && std::memcmp(a.data(), b.data(), a.size_bytes()) == 0; }

bool same_weights(LanguageModel& a, LanguageModel& b) {
    bool same = same_bits(a.embedding.flat(), b.embedding.flat());
    std::vector<peft::DenseLinear<float>*> layers;
    a.visit([&](std::string_view, peft::DenseLinear<float>& layer) { layers.push_back(&layer); });
    std::size_t at = 0;
    b.visit([&](std::string_view, peft::DenseLinear<float>& layer) {
        same = same && same_bits(layers[at]->stored().flat(), layer.stored().flat()) && same_bits(layers[at]->bias(), layer.bias());
        ++at;
    });
    return same;
}

/// Counts and prints what does not agree.
class Checks {
public:
    void expect(bool good, const std::string& what) {
        ++made_;
        if (good) return;
        ++failed_;
        std::printf("FAILED: %s\n", what.c_str());
    }
    bool report() const {
        std::printf("\n%d checks, %d failed: files read back give the same outputs bit for bit, merging keeps outputs within rounding, unmerging restores the model\n", made_, failed_);
        return failed_ == 0;
    }

private:
    int made_ = 0;
    int failed_ = 0;
};

/// Trains one method, merges it, writes what it made, reads that back and leaves the model as it was.
Outcome run(const Method& method, LanguageModel& model, const Text& text, const Batch& held_out, const std::string& prompt, const Options& o, Checks& checks) {
    const fs::path folder = o.out / method.name;
    const Batch probe = even_batch(text.held_out, 64, o.shape.context);
    LanguageModel original = model;

    Network network(model, attach(method, o.settings));
    Outcome outcome{.method = method.name, .trained = network.trained_count(), .share = static_cast<double>(network.trained_count()) / static_cast<double>(model.count())};
    outcome.before = mean_loss(logits_of(model), held_out);
    const std::string state = o.state.empty() ? std::string() : o.state.string() + "." + method.name;
    auto result = train(network, text.train, held_out, {.steps = o.steps, .batch = o.batch, .learning_rate = o.learning_rate > 0 ? o.learning_rate : method.learning_rate, .seed = o.settings.seed, .state = state, .save_every = o.save_every, .resume = o.resume}, method.name);
    outcome.early = result.curve[(result.curve.size() - 1) / 10].second;
    outcome.after = result.curve.back().second;
    outcome.curve = std::move(result.curve);
    outcome.seconds_per_step = result.seconds_per_step;
    outcome.sample = continue_text(logits_of(network), o.shape.context, prompt, 160, o.settings.seed);

    outcome.file_bytes = save_adapter(folder, network);
    const auto logits = network.logits(probe.windows);
    LanguageModel fresh(o.shape);
    load_model(o.out / "base.safetensors", fresh);
    const Network loaded = load_adapter(folder, fresh);
    checks.expect(same_bits(loaded.logits(probe.windows).flat(), logits.flat()), method.name + ": the adapter read back gives other outputs");

    const MergeCheck merge_check(network, probe, o.settings.rank);
    network.visit([](std::string_view, Layer& layer) { layer.merge(); });
    outcome.merged = mean_loss(logits_of(network), held_out);
    outcome.rounding = merge_check.worst(network);
    checks.expect(outcome.rounding <= 1, method.name + ": merged and unmerged outputs differ by more than rounding explains");
    save_model(folder / "merged.safetensors", model);
    LanguageModel merged(o.shape);
    load_model(folder / "merged.safetensors", merged);
    checks.expect(same_bits(merged.logits(probe.windows).flat(), network.logits(probe.windows).flat()), method.name + ": the merged model read back gives other outputs");

    network.visit([](std::string_view, Layer& layer) { layer.unmerge(); });
    checks.expect(same_weights(model, original), method.name + ": unmerging did not restore the model");
    return outcome;
}

/// The first words of a line of the held-out text.
std::string prompt_from(const std::string& text) {
    const std::string line = text.substr(text.find('\n') + 1, 32);
    return line.substr(0, line.find_last_of(" \n") + 1);
}

int main_with(Options o) {
    const auto methods = chosen(o.methods);
    peft::set_threads(o.threads);
    const Text base = base_text(o.base_text, o.shape.context);
    const Text tuning = tuning_text(o.tune_text, o.shape.context);
    fs::create_directories(o.out);

    LanguageModel model(o.shape, o.settings.seed);
    o.settings.projection = peft::SharedProjection<float>::seeded(256, model.largest(), o.settings.seed);
    if (o.resume) {
        load_model(o.out / "base.safetensors", model);
    } else {
        pretrain(model, base, o);
        save_model(o.out / "base.safetensors", model);
    }

    std::printf("fine-tuning on %zu bytes, measured on %zu others\n", tuning.train.size(), tuning.held_out.size());
    Checks checks;
    const Batch held_out = even_batch(tuning.held_out, 2048, o.shape.context);
    const std::string prompt = prompt_from(tuning.held_out);
    const std::string before = continue_text(logits_of(model), o.shape.context, prompt, 160, o.settings.seed);
    std::vector<Outcome> outcomes;
    for (const Method* method : methods) outcomes.push_back(run(*method, model, tuning, held_out, prompt, o, checks));

    Plot plot{"Fine-tuning a byte-level language model", "step", "held-out loss (nats a byte)", {}};
    for (std::size_t i = 0; i < methods.size(); ++i) plot.curves.push_back({methods[i]->name, methods[i]->color, outcomes[i].curve});
    write_svg(o.out / "loss.svg", plot);

    print_sample("before:", prompt, before);
    for (const Outcome& outcome : outcomes) print_sample(outcome.method + ":", prompt, outcome.sample);
    print_table(outcomes);
    std::printf("\nThe embedding stays frozen while fine-tuning. Written to %s: loss.svg, base.safetensors, and for each method the adapter and merged.safetensors\n", o.out.string().c_str());
    return checks.report() ? 0 : 1;
}

}  // namespace

int main(int argc, char** argv) {
    CLI::App app("Pre-trains a byte-level language model and fine-tunes it with parameter-efficient methods");
    Options options;
    declare(app, options);
    CLI11_PARSE(app, argc, argv);
    try {
        return main_with(options);
    } catch (const std::exception& error) {   // peft::Error among them: file, tensor or option, expected and found
        std::fprintf(stderr, "finetune: %s\n", error.what());
        return 2;
    }
}
