#include "train.hpp"

#include "progress.hpp"

#include <peft/io/training_state.hpp>
#include <peft/optim/adamw.hpp>
#include <peft/optim/clip.hpp>
#include <peft/optim/schedule.hpp>

#include <algorithm>
#include <chrono>
#include <cmath>

namespace finetune {

TrainResult train(Network& network, std::string_view text, const Batch& held_out, const TrainOptions& options, const std::string& title) {
    peft::AdamW<float> optimizer(network.parameters(), {.weight_decay = 0});
    const peft::Schedule schedule{.kind = peft::ScheduleKind::cosine, .peak = options.learning_rate, .warmup = options.steps / 20, .total = options.steps, .floor = options.learning_rate / 20};
    std::uint64_t step = 0;
    peft::io::TrainingState<float> state;
    network.add_to(state);
    state.add("optimizer", optimizer);
    state.add("schedule", schedule);
    state.constant("text", peft::stream_of(text));
    state.constant("batch", options.batch);
    state.constant("seed", options.seed);
    state.cursor("step", step);
    if (options.resume) peft::io::load_training_state(options.state, state);

    Progress progress(title, options.steps);
    TrainResult result;
    std::vector<double> times;
    Batch batch{network.context(), {}, {}};

    const std::size_t stride = std::max<std::size_t>(1, options.steps / std::max<std::size_t>(1, options.measurements));
    const auto measure = [&] {
        network.prepare();
        result.curve.emplace_back(static_cast<double>(step), mean_loss(logits_of(network), held_out));
    };
    measure();
    while (step < options.steps) {
        const auto begin = std::chrono::steady_clock::now();
        random_batch(text, options.batch, options.seed, step, batch);
        optimizer.set_learning_rate(schedule.at(step));
        optimizer.zero_grad();
        const double loss = network.train(batch);
        peft::clip_by_norm(optimizer.parameters(), options.clip);
        optimizer.step();
        times.push_back(std::chrono::duration<double>(std::chrono::steady_clock::now() - begin).count());
        progress.update(++step, loss);
        if (step % stride == 0 || step == options.steps) measure();
        if (!options.state.empty() && (step % options.save_every == 0 || step == options.steps)) peft::io::save_training_state(options.state, state);
    }
    if (times.empty()) return result;
    // Other programs on the machine only ever make a step slower: a low quantile is what the step itself takes.
    const auto low = times.begin() + static_cast<std::ptrdiff_t>(times.size() / 20);
    std::nth_element(times.begin(), low, times.end());
    result.seconds_per_step = *low;
    return result;
}

std::string continue_text(const LogitsFunction& logits, std::size_t context, const std::string& prompt, std::size_t count, std::uint64_t seed) {
    constexpr double temperature = 0.5;
    const peft::CounterRandom random({seed, peft::stream_of("samples"), peft::Purpose::data, 0});
    std::string text = std::string(context, '\n') + prompt;   // so that there is a whole window, however short the prompt
    for (std::size_t i = 0; i < count; ++i) {
        const std::vector<std::uint8_t> window(text.end() - static_cast<std::ptrdiff_t>(context), text.end());
        const peft::Matrix<float> row = logits(window);
        const float largest = *std::max_element(row.data(), row.data() + row.size());
        std::vector<double> weights;
        double total = 0;
        for (const float z : row.flat()) total += weights.emplace_back(std::exp(static_cast<double>(z - largest) / temperature));
        double left = random.uniform(i) * total;
        std::size_t next = 0;
        while (next + 1 < weights.size() && left >= weights[next]) left -= weights[next++];
        text += static_cast<char>(static_cast<unsigned char>(next));
    }
    return text.substr(context + prompt.size());
}

}  // namespace finetune
