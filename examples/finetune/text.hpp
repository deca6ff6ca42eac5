#pragma once
#include <cstdint>
#include <filesystem>
#include <span>
#include <string>
#include <string_view>
#include <vector>

namespace finetune {

/// A text, its last tenth held out: no training step sees it.
struct Text {
    std::string train;
    std::string held_out;
};

/// Windows of bytes and the byte that follows each of them.
struct Batch {
    std::size_t context = 0;
    std::vector<std::uint8_t> windows;   ///< size() * context
    std::vector<std::uint8_t> targets;

    std::size_t size() const { return targets.size(); }
    std::span<const std::uint8_t> window(std::size_t i) const { return {windows.data() + i * context, context}; }
};

/// `files`, or our own headers without their comments. Throws std::runtime_error when there is not enough text.
Text base_text(const std::vector<std::filesystem::path>& files, std::size_t context);
/// `files`, or README.md and the comments of all our sources. Throws std::runtime_error when there is not enough text.
Text tuning_text(const std::vector<std::filesystem::path>& files, std::size_t context);

/// `count` windows at random places, the same for the same (seed, step).
void random_batch(std::string_view text, std::size_t count, std::uint64_t seed, std::uint64_t step, Batch& batch);
/// Up to `count` windows, evenly spread.
Batch even_batch(std::string_view text, std::size_t count, std::size_t context);

/// What is left of C++ source without comments, or their text alone, one line each.
std::string without_comments(std::string_view source);
std::string only_comments(std::string_view source);

}  // namespace finetune
