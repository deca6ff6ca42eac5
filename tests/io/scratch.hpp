#pragma once
#include "support/temporary_directory.hpp"

#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <string>
#include <string_view>
#include <vector>

// Files for tests, read and written without the library.

namespace peft::test {

/// A temporary directory with the names in it.
class Scratch : public peft_test::TemporaryDirectory {
public:
    ~Scratch() {   // a test may have taken the permissions away that removing needs
        std::error_code ignored;
        std::filesystem::permissions(path(), std::filesystem::perms::owner_all, ignored);
    }
    std::string operator/(const std::string& name) const { return file(name); }
    /// Names of what the directory holds.
    std::vector<std::string> names() const {
        std::vector<std::string> result;
        for (const auto& entry : std::filesystem::directory_iterator(path())) result.push_back(entry.path().filename().string());
        return result;
    }
};

inline std::string contents(const std::string& path) {
    std::ifstream in(path, std::ios::binary);
    return {std::istreambuf_iterator<char>(in), std::istreambuf_iterator<char>()};
}

inline void store(const std::string& path, std::string_view bytes) {
    std::ofstream out(path, std::ios::binary | std::ios::trunc);
    out.write(bytes.data(), static_cast<std::streamsize>(bytes.size()));
}

/// A tensor file from its two parts, right or wrong.
inline std::string tensor_file(std::string_view header, std::string_view data) {
    const std::uint64_t length = header.size();
    std::string result(8, '\0');
    std::memcpy(result.data(), &length, 8);
    return result.append(header).append(data);
}

/// One line of printable ASCII below 1 KiB, as every error promises.
inline bool fit_for_a_log(std::string_view message) {
    if (message.empty() || message.size() >= 1024) return false;
    for (const char c : message)
        if (c < 0x20 || c > 0x7e) return false;
    return true;
}

}  // namespace peft::test
