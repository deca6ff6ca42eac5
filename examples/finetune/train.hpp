#pragma once
#include "model.hpp"

#include <string>
#include <utility>
#include <vector>

namespace finetune {

struct TrainOptions {
    std::size_t steps = 200;
    std::size_t batch = 128;
    double learning_rate = 1e-3;   ///< at its highest: it rises over a twentieth of the steps and falls along a cosine
    double clip = 1;               ///< largest norm of the gradient
    std::uint64_t seed = 1;
    std::size_t measurements = 20; ///< of the held-out loss, for the curve
    std::string state{};           ///< file to keep the training state in; empty: none
    std::size_t save_every = 100;  ///< steps
    bool resume = false;           ///< start from the state in the file
};

struct TrainResult {
    std::vector<std::pair<double, double>> curve;   ///< (step, held-out loss)
    double seconds_per_step = 0;                    ///< one step in twenty is faster; without the measurements
};

/// Trains what the network's methods train on `text`; `held_out` is only measured. A run that goes on from a saved state ends
/// with the numbers, bit for bit, of one that never stopped.
TrainResult train(Network& network, std::string_view text, const Batch& held_out, const TrainOptions& options, const std::string& title);

/// `count` bytes as a model would go on after `prompt`, drawn at temperature 0.5.
std::string continue_text(const LogitsFunction& logits, std::size_t context, const std::string& prompt, std::size_t count, std::uint64_t seed);

}  // namespace finetune
