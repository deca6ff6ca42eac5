// compile_time [--check] <repetitions> <unit.cpp> <compiler> <flag>...: user seconds and memory of a compiler for what a unit uses of
// the library, the best of some repetitions. The goal is where it is to get; the limit is what it may not exceed: with --check that
// fails. Limits leave room for a machine that is busy (half as much again) and for another compiler.
#include <sys/resource.h>
#include <sys/wait.h>
#include <unistd.h>

#include <algorithm>
#include <cstdio>
#include <cstdlib>
#include <string>
#include <vector>

namespace {

struct Cost {
    double seconds = 1e9;
    long megabytes = 0;
};

Cost compile(std::vector<std::string> command, int which, int repetitions) {
    command.push_back("-DCASE=" + std::to_string(which));
    std::vector<char*> arguments;
    for (std::string& word : command) arguments.push_back(word.data());
    arguments.push_back(nullptr);
    Cost best;
    for (int i = 0; i < repetitions; ++i) {
        const pid_t child = fork();
        if (child == 0) {
            execvp(arguments[0], arguments.data());
            _exit(127);
        }
        int status = 0;
        rusage usage{};
        if (child < 0 || wait4(child, &status, 0, &usage) != child || status != 0) {
            std::printf("case %d does not compile\n", which);
            std::exit(2);
        }
        const double seconds = static_cast<double>(usage.ru_utime.tv_sec) + 1e-6 * static_cast<double>(usage.ru_utime.tv_usec);
        best.seconds = std::min(best.seconds, seconds);
        best.megabytes = std::max(best.megabytes, usage.ru_maxrss / 1024);
    }
    return best;
}

}  // namespace

int main(int argc, char** argv) {
    std::vector<std::string> words(argv + 1, argv + argc);
    bool check = false;
    if (!words.empty() && words[0] == "--check") {
        check = true;
        words.erase(words.begin());
    }
    if (words.size() < 3) {
        std::printf("usage: compile_time [--check] <repetitions> <unit.cpp> <compiler> <flag>...\n");
        return 2;
    }
    const int repetitions = std::max(1, std::atoi(words[0].c_str()));
    std::vector<std::string> command(words.begin() + 2, words.end());
    command.insert(command.end(), {words[1], "-c", "-o", "/dev/null"});

    std::vector<Cost> cost;
    for (int which = 0; which <= 6; ++which) cost.push_back(compile(command, which, repetitions));
    constexpr int others = PEFT_METHODS - 1;   // cases 4 and 6 have these more than cases 3 and 5
    struct Row {
        const char* name;
        double seconds;
        long megabytes;
        double goal;    // 0: none
        double limit;   // seconds
    };
    const Row rows[] = {
        {"nothing of the library", cost[0].seconds, cost[0].megabytes, 0, 0.5},
        {"umbrella without files", cost[1].seconds - cost[0].seconds, cost[1].megabytes, 0.46, 2.5},
        {"umbrella", cost[2].seconds - cost[0].seconds, cost[2].megabytes, 0, 5},
        {"the first method's life", cost[3].seconds - cost[1].seconds, cost[3].megabytes, 0, 8},
        {"each further method's life", (cost[4].seconds - cost[3].seconds) / others, cost[4].megabytes, 0.3, 1.0},
        {"files, one registry entry", cost[5].seconds - cost[4].seconds - cost[2].seconds + cost[1].seconds, cost[5].megabytes, 0, 15},
        {"each further registry entry", (cost[6].seconds - cost[5].seconds) / others, cost[6].megabytes, 0.1, 0.5},
    };
    constexpr long limit_megabytes = 1024;
    int over = 0;
    std::printf("%s, user seconds, best of %d, %d methods\n%-30s %8s %8s %8s %8s\n", words[2].c_str(), repetitions, PEFT_METHODS, "what", "seconds", "goal", "limit", "MB");
    for (const Row& row : rows) {
        std::printf("%-30s %8.2f ", row.name, row.seconds);
        if (row.goal > 0) std::printf("%8.2f", row.goal);
        else std::printf("%8s", "-");
        const bool exceeded = row.seconds > row.limit || row.megabytes > limit_megabytes;
        over += exceeded ? 1 : 0;
        std::printf(" %8.2f %8ld%s\n", row.limit, row.megabytes, exceeded ? "  over the limit" : row.goal > 0 && row.seconds > row.goal ? "  over the goal" : "");
    }
    return check && over > 0 ? 1 : 0;
}
