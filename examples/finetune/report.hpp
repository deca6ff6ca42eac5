#pragma once
#include "train.hpp"

#include <cstdint>
#include <string>
#include <vector>

namespace finetune {

/// What a run found out about one method.
struct Outcome {
    std::string method;
    std::size_t trained = 0;                    ///< numbers
    double share = 0;                           ///< of the numbers of the model
    double before = 0, early = 0, after = 0, merged = 0;   ///< held-out loss, nats a byte; early: after a tenth of the steps
    double rounding = 0;                        ///< largest |merged - unmerged| output / its bound
    double seconds_per_step = 0;
    std::uintmax_t file_bytes = 0;
    std::vector<std::pair<double, double>> curve{};
    std::string sample{};
};

/// The table on stdout. Times and losses are also given relative to full fine-tuning, if it took part.
void print_table(const std::vector<Outcome>& outcomes);

/// A prompt and what is said after it, indented, in printable characters.
void print_sample(const std::string& title, const std::string& prompt, const std::string& sample);

}  // namespace finetune
