// resume                                                the test: runs itself as below and compares what was written
// resume train <float|double> <folder> <steps> [resume]  trains, from the state in the folder if told so
// resume keep_saving <folder>                            trains and saves until it is killed
#include "support/temporary_directory.hpp"

#include <peft/adapters/low_rank/dora.hpp>
#include <peft/adapters/low_rank/lora.hpp>
#include <peft/io/save.hpp>
#include <peft/io/training_state.hpp>
#include <peft/linear/dense.hpp>
#include <peft/optim/adamw.hpp>
#include <peft/optim/clip.hpp>
#include <peft/optim/lora_plus.hpp>

#include <sys/wait.h>
#include <unistd.h>

#include <csignal>
#include <cstdio>
#include <cstdlib>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <limits>
#include <string>
#include <vector>

namespace {

template <class T> void fill(peft::DenseLinear<T>& layer) {
    peft::fill_normal<T>({.seed = 1, .stream = layer.shape().out}, 0, 0.4, layer.stored().flat());
}

/// Two layers, y = fc2(fc1(x)), that learn to give what x is drawn from.
template <class T> int train(const std::string& folder, std::uint64_t steps, bool resume, bool keep_saving) {
    peft::DenseLinear<T> base1(peft::LayerShape{.in = 24, .out = 17}), base2(peft::LayerShape{.in = 17, .out = 9});
    fill(base1);
    fill(base2);
    auto fc1 = peft::adapt(base1, peft::LoRA<T>(base1.shape(), {.rank = 4, .alpha = 8, .dropout = 0.2, .seed = 3}), peft::stream_of("fc1"));
    auto fc2 = peft::adapt(base2, peft::DoRA<T>(base2.shape(), {.rank = 3, .dropout = 0.1, .seed = 3}), peft::stream_of("fc2"));
    auto tape1 = fc1.make_tape();
    auto tape2 = fc2.make_tape();
    peft::AdamW<T> optimizer(peft::lora_plus_groups(peft::parameters(fc1, fc2), {.ratio = 4}), {.weight_decay = 0.05});
    const peft::Schedule schedule{.kind = peft::ScheduleKind::cosine, .peak = 0.02, .warmup = 6, .total = 40, .floor = 0.001};
    std::uint64_t step = 0;

    peft::io::TrainingState<T> state;
    state.add("fc1", fc1, tape1);
    state.add("fc2", fc2, tape2);
    state.add("optimizer", optimizer);
    state.add("schedule", schedule);
    state.cursor("step", step);
    if (resume) peft::io::load_training_state(folder + "/state", state);

    peft::Matrix<T> x(32, 24), h(32, 17), y(32, 9), dh(32, 17), dx(32, 24);
    for (const std::uint64_t last = keep_saving ? std::numeric_limits<std::uint64_t>::max() : step + steps; step < last;) {
        peft::fill_normal<T>({.seed = 5, .purpose = peft::Purpose::data, .step = step}, 0, 1, x.flat());
        optimizer.set_learning_rate(schedule.at(step));
        fc1.forward(x, h, tape1);
        fc2.forward(h, y, tape2);
        for (std::size_t i = 0; i < y.rows(); ++i) {
            for (std::size_t j = 0; j < y.cols(); ++j) y(i, j) = (y(i, j) - x(i, j)) / static_cast<T>(y.rows());
        }
        fc2.backward(y, dh, tape2);
        fc1.backward(dh, dx, tape1);
        peft::clip_by_norm(optimizer.parameters(), 1);
        optimizer.step();
        optimizer.zero_grad();
        ++step;
        if (keep_saving) peft::io::save_training_state(folder + "/state", state);
    }
    peft::io::save_training_state(folder + "/state", state);
    peft::Bank<T> lora, dora;   // one file holds one method
    lora.add("fc1", fc1);
    dora.add("fc2", fc2);
    peft::io::save_adapter(folder + "/fc1", lora);
    peft::io::save_adapter(folder + "/fc2", dora);
    return 0;
}

const char* program;

/// This program in a new process. Its exit status, or -1 when it was killed, as it is after `milliseconds`.
int run(std::vector<std::string> arguments, int milliseconds = 0) {
    arguments.insert(arguments.begin(), program);
    std::vector<char*> argv;
    for (std::string& argument : arguments) argv.push_back(argument.data());
    argv.push_back(nullptr);
    const pid_t child = ::fork();
    if (child == 0) {
        ::execv(program, argv.data());
        ::_exit(127);
    }
    if (milliseconds != 0) {
        ::usleep(static_cast<useconds_t>(milliseconds) * 1000);
        ::kill(child, SIGKILL);
    }
    int status = 0;
    if (child < 0 || ::waitpid(child, &status, 0) != child) return 127;
    return WIFEXITED(status) ? WEXITSTATUS(status) : -1;
}

int failures = 0;

void expect(bool good, const std::string& what) {
    if (good) return;
    ++failures;
    std::printf("FAILED: %s\n", what.c_str());
}

std::string contents(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

/// The first file of two folders that differs, or nothing.
std::string difference(const std::string& a, const std::string& b) {
    for (const char* name : {"/state", "/fc1/adapter_model.safetensors", "/fc1/adapter_config.json", "/fc2/adapter_model.safetensors", "/fc2/adapter_config.json"}) {
        const std::string left = contents(a + name);
        if (left.empty() || left != contents(b + name)) return name;
    }
    return {};
}

void compare_runs(const std::string& type) {
    const peft_test::TemporaryDirectory straight, halves, forgetful;
    expect(run({"train", type, straight.path(), "40"}) == 0, type + ": 40 steps");
    expect(run({"train", type, halves.path(), "13"}) == 0, type + ": 13 steps");
    expect(!difference(straight.path(), halves.path()).empty(), type + ": 13 steps gave what 40 give");
    expect(run({"train", type, halves.path(), "27", "resume"}) == 0, type + ": 27 steps more");
    const std::string name = difference(straight.path(), halves.path());
    expect(name.empty(), type + ": stopped and resumed, another " + name);
    expect(run({"train", type, forgetful.path(), "27"}) == 0, type + ": 27 steps");
    expect(!difference(straight.path(), forgetful.path()).empty(), type + ": the state makes no difference");
}

/// Killed at any moment, a run leaves a state that can be resumed.
void kill_while_saving() {
    const peft_test::TemporaryDirectory folder;
    expect(run({"train", "float", folder.path(), "1"}) == 0, "the first state");
    for (int i = 0; i < 5; ++i) {
        expect(run({"keep_saving", folder.path()}, 60 + 17 * i) == -1, "a run that is killed");
        expect(run({"train", "float", folder.path(), "1", "resume"}) == 0, "the state that a killed run left");
    }
}

}  // namespace

int main(int argc, char** argv) {
    program = argv[0];
    const std::vector<std::string> arguments(argv + 1, argv + argc);
    try {
        if (arguments.size() >= 4 && arguments[0] == "train") {
            const auto steps = std::strtoull(arguments[3].c_str(), nullptr, 10);
            const bool resume = arguments.size() > 4;
            return arguments[1] == "double" ? train<double>(arguments[2], steps, resume, false) : train<float>(arguments[2], steps, resume, false);
        }
        if (arguments.size() == 2 && arguments[0] == "keep_saving") return train<float>(arguments[1], 0, true, true);
        if (!arguments.empty()) return 2;
        compare_runs("float");
        compare_runs("double");
        kill_while_saving();
    } catch (const std::exception& error) {
        std::fprintf(stderr, "resume: %s\n", error.what());
        return 1;
    }
    std::printf("%d failures\n", failures);
    return failures == 0 ? 0 : 1;
}
