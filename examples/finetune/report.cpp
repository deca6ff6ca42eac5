#include "report.hpp"

#include <algorithm>
#include <cstdio>

namespace finetune {
namespace {

std::string size_text(std::uintmax_t bytes) {
    char text[32];
    if (bytes < 1024 * 1024) std::snprintf(text, sizeof text, "%.1f KiB", static_cast<double>(bytes) / 1024);
    else std::snprintf(text, sizeof text, "%.1f MiB", static_cast<double>(bytes) / (1024 * 1024));
    return text;
}

std::string percent(double part, double whole, const char* format) {
    if (!(whole > 0)) return "-";
    char text[32];
    std::snprintf(text, sizeof text, format, 100 * part / whole);
    return text;
}

}  // namespace

void print_table(const std::vector<Outcome>& outcomes) {
    const auto full = std::find_if(outcomes.begin(), outcomes.end(), [](const Outcome& o) { return o.method == "full"; });
    const double full_drop = full == outcomes.end() ? 0 : full->before - full->after;
    const double full_time = full == outcomes.end() ? 0 : full->seconds_per_step;
    std::printf("\n                    trained          held-out loss (nats a byte)                    of full's   time of a step      adapter   merged - unmerged\n");
    std::printf("method       numbers    share    before    1/10   after  merged    drop         drop      ms    of full         file   of its bound\n");
    for (const Outcome& o : outcomes) {
        const double drop = o.before - o.after;
        std::printf("%-10s  %8zu  %6.2f %%    %6.3f  %6.3f  %6.3f  %6.3f  %6s       %6s  %6.2f     %6s   %10s        %6.2f %%\n", o.method.c_str(), o.trained, 100 * o.share,
                    o.before, o.early, o.after, o.merged, percent(drop, o.before, "%.1f %%").c_str(), percent(drop, full_drop, "%.0f %%").c_str(), 1e3 * o.seconds_per_step,
                    percent(o.seconds_per_step, full_time, "%.0f %%").c_str(), size_text(o.file_bytes).c_str(), 100 * o.rounding);
    }
}

void print_sample(const std::string& title, const std::string& prompt, const std::string& sample) {
    std::printf("\n%s\n    ", title.c_str());
    const auto print = [](const std::string& text) {
        for (const char c : text) {
            if (c == '\n') std::fputs("\n    ", stdout);
            else std::fputc(c >= 0x20 && c < 0x7f ? c : '?', stdout);
        }
    };
    print(prompt);
    std::fputs(">>> ", stdout);
    print(sample);
    std::fputc('\n', stdout);
}

}  // namespace finetune
