#pragma once
#include <cstdint>
#include <cstring>
#include <filesystem>
#include <fstream>
#include <iterator>
#include <stdexcept>
#include <string>
#include <string_view>
#include <vector>

#include <stdlib.h>

// Files for tests, read and written without the library.

namespace peft::test {

/// A directory that is empty at first and gone at the end.
class Scratch {
public:
    Scratch() {
        std::string name = (std::filesystem::temp_directory_path() / "peft-io-XXXXXX").string();
        if (::mkdtemp(name.data()) == nullptr) throw std::runtime_error("no directory for the test");
        path_ = name;
    }
    Scratch(const Scratch&) = delete;
    Scratch& operator=(const Scratch&) = delete;
    ~Scratch() {
        std::error_code ignored;
        std::filesystem::permissions(path_, std::filesystem::perms::owner_all, ignored);
        std::filesystem::remove_all(path_, ignored);
    }

    std::string operator/(std::string_view name) const { return (path_ / name).string(); }
    /// Names of what the directory holds.
    std::vector<std::string> names() const {
        std::vector<std::string> result;
        for (const auto& entry : std::filesystem::directory_iterator(path_)) result.push_back(entry.path().filename().string());
        return result;
    }

private:
    std::filesystem::path path_;
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
