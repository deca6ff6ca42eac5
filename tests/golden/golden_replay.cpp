// golden_replay DIR [--only GLOB] [--double]
// Replays the cases below DIR (golden/README.md, golden_methods/README.md) through the library and prints a line for each.
#include "replay.hpp"

#include <algorithm>
#include <cstdio>
#include <cstring>
#include <filesystem>
#include <string>
#include <vector>

namespace {

/// '*' matches any text, '?' any character.
bool matches(const char* pattern, const char* text) {
    if (*pattern == '\0') return *text == '\0';
    if (*pattern == '*') return matches(pattern + 1, text) || (*text != '\0' && matches(pattern, text + 1));
    return *text != '\0' && (*pattern == '?' || *pattern == *text) && matches(pattern + 1, text + 1);
}

int usage(const char* program) {
    std::fprintf(stderr, "usage: %s DIR [--only GLOB] [--double]\n", program);
    return 2;
}

}  // namespace

int main(int argc, char** argv) {
    std::string directory;
    std::string only = "*";
    bool in_double = false;
    for (int i = 1; i < argc; ++i) {
        if (std::strcmp(argv[i], "--double") == 0) in_double = true;
        else if (std::strcmp(argv[i], "--only") == 0 && i + 1 < argc) only = argv[++i];
        else if (argv[i][0] == '-' || !directory.empty()) return usage(argv[0]);
        else directory = argv[i];
    }
    if (directory.empty()) return usage(argv[0]);
    std::error_code fault;
    std::vector<std::filesystem::path> cases;
    for (const auto& entry : std::filesystem::directory_iterator(directory, fault)) {
        if (std::filesystem::exists(entry.path() / "case.json") && matches(only.c_str(), entry.path().filename().c_str())) cases.push_back(entry.path());
    }
    if (fault) {
        std::fprintf(stderr, "%s: %s\n", directory.c_str(), fault.message().c_str());
        return 2;
    }
    if (cases.empty()) {
        std::fprintf(stderr, "%s: no case matches %s\n", directory.c_str(), only.c_str());
        return 2;
    }
    std::sort(cases.begin(), cases.end());
    int passed = 0, failed = 0, unsupported = 0;
    for (const auto& path : cases) {
        const golden::Result result = in_double ? golden::replay<double>(path.string()) : golden::replay<float>(path.string());
        std::printf("%s\n", result.line.c_str());
        switch (result.verdict) {
            case golden::Result::Verdict::ok: ++passed; break;
            case golden::Result::Verdict::fail: ++failed; break;
            case golden::Result::Verdict::unsupported: ++unsupported; break;
        }
    }
    std::printf("%d passed, %d failed, %d unsupported\n", passed, failed, unsupported);
    return failed > 0 ? 1 : 0;
}
