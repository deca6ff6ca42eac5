#pragma once
#include <chrono>
#include <string>

namespace finetune {

/// A bar with loss, steps a second and the time left on stderr; a plain line every tenth of the way where that is no terminal.
class Progress {
public:
    Progress(std::string title, std::size_t steps);
    Progress(const Progress&) = delete;
    Progress& operator=(const Progress&) = delete;
    ~Progress();

    void update(std::size_t step, double loss);

private:
    using Clock = std::chrono::steady_clock;
    void draw(std::size_t step, double seconds) const;

    std::string title_;
    std::size_t steps_;
    bool terminal_;
    double loss_ = 0;   ///< smoothed
    Clock::time_point start_ = Clock::now();
    Clock::time_point drawn_{};
};

}  // namespace finetune
