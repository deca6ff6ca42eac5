#pragma once
#include <peft/core/error.hpp>
#include <peft/core/scalar.hpp>

#include <cmath>
#include <cstddef>
#include <string>

PEFT_BEGIN

enum class ScheduleKind {
    constant,   ///< stays at the peak
    linear,     ///< falls in a straight line
    cosine,     ///< falls along half a cosine wave
};

PEFT_END

PEFT_ISA_BEGIN

/// A learning rate over time. The first `warmup` steps rise in a straight line, peak / warmup at step 0 and the peak at step
/// warmup - 1; from step `warmup` on the rate falls from the peak, and is the floor at step `total` and after it:
///   linear: floor + (peak - floor) * (1 - p),  cosine: floor + (peak - floor) * (1 + cos(pi p)) / 2,
///   p = (step - warmup) / (total - warmup).
/// optimizer.set_learning_rate(schedule.at(step)) before each step, counted from 0.
/// Source: Loshchilov and Hutter 2017, arXiv:1608.03983, eq. 5, for the cosine without restarts.
struct Schedule {
    ScheduleKind kind = ScheduleKind::constant;
    double peak = 1e-3;
    std::size_t warmup = 0;
    std::size_t total = 0;   ///< not used by a constant schedule
    double floor = 0;        ///< not used by a constant schedule

    /// Throws OptionError when peak or floor is negative or not finite, floor > peak, or a falling schedule has total < warmup.
    double at(std::size_t step) const {
        check();
        if (step < warmup) return peak * static_cast<double>(step + 1) / static_cast<double>(warmup);
        if (kind == ScheduleKind::constant) return peak;
        if (step >= total) return floor;
        const double progress = static_cast<double>(step - warmup) / static_cast<double>(total - warmup);
        constexpr double pi = 3.141592653589793;
        const double height = kind == ScheduleKind::linear ? 1 - progress : (1 + std::cos(pi * progress)) / 2;
        return floor + (peak - floor) * height;
    }

private:
    void check() const {
        const auto refuse = [](const char* option, const char* expected, std::string found) {
            throw OptionError("outside its range", {.subject = std::string("schedule: ") + option, .expected = expected, .found = std::move(found)});
        };
        if (!(is_finite(peak) && peak >= 0)) refuse("peak", "a finite number >= 0", detail::to_text(peak));
        if (kind == ScheduleKind::constant) return;
        if (!(is_finite(floor) && floor >= 0 && floor <= peak)) refuse("floor", "a number in [0, peak]", detail::to_text(floor));
        if (total < warmup) refuse("total", "at least warmup", std::to_string(total));
    }
};

PEFT_ISA_END
