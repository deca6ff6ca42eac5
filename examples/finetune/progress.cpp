#include "progress.hpp"

#include <algorithm>
#include <cstdio>
#include <utility>

#if defined(_WIN32)
#include <io.h>
#else
#include <unistd.h>
#endif

namespace finetune {
namespace {

bool stderr_is_terminal() {
#if defined(_WIN32)
    return _isatty(_fileno(stderr)) != 0;
#else
    return isatty(STDERR_FILENO) != 0;
#endif
}

}  // namespace

Progress::Progress(std::string title, std::size_t steps) : title_(std::move(title)), steps_(std::max<std::size_t>(1, steps)), terminal_(stderr_is_terminal()) {}

Progress::~Progress() {
    if (terminal_) std::fputc('\n', stderr);
}

void Progress::update(std::size_t step, double loss) {
    loss_ = step <= 1 ? loss : 0.9 * loss_ + 0.1 * loss;
    const auto now = Clock::now();
    const std::size_t tenth = std::max<std::size_t>(1, steps_ / 10);
    // 50 ms: as fast as an eye can follow
    const bool due = terminal_ ? now - drawn_ > std::chrono::milliseconds(50) : step % tenth == 0;
    if (!due && step != steps_) return;
    drawn_ = now;
    draw(step, std::chrono::duration<double>(now - start_).count());
}

void Progress::draw(std::size_t step, double seconds) const {
    const double rate = static_cast<double>(step) / std::max(seconds, 1e-9);
    if (!terminal_) {
        std::fprintf(stderr, "%-12s step %zu of %zu  loss %.3f  %.0f steps/s\n", title_.c_str(), step, steps_, loss_, rate);
        return;
    }
    constexpr std::size_t width = 30;
    const std::size_t filled = std::min(width, width * step / steps_);
    const std::string bar = std::string(filled, '#') + std::string(width - filled, '.');
    const double left = static_cast<double>(steps_ - std::min(step, steps_)) / std::max(rate, 1e-9);
    std::fprintf(stderr, "\r%-12s [%s] %zu/%zu  loss %.3f  %.0f steps/s  %.0f s left \033[K", title_.c_str(), bar.c_str(), step, steps_, loss_, rate, left);
    std::fflush(stderr);
}

}  // namespace finetune
