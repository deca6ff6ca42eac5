#include "text.hpp"

#include <peft/core/random.hpp>

#include <algorithm>
#include <cctype>
#include <fstream>
#include <iterator>
#include <stdexcept>

namespace finetune {
namespace {

// Below this a model learns the text by heart instead of its language.
constexpr std::size_t least_text = 64 * 1024;

std::string read(const std::filesystem::path& path) {
    std::ifstream file(path, std::ios::binary);
    if (!file) throw std::runtime_error("cannot read " + path.string());
    return {std::istreambuf_iterator<char>(file), std::istreambuf_iterator<char>()};
}

/// All .hpp and .cpp files below a folder, in the order of their names.
std::vector<std::filesystem::path> sources_below(const std::filesystem::path& folder) {
    std::vector<std::filesystem::path> found;
    if (!std::filesystem::is_directory(folder)) return found;
    for (const auto& entry : std::filesystem::recursive_directory_iterator(folder)) {
        const auto extension = entry.path().extension();
        if (entry.is_regular_file() && (extension == ".hpp" || extension == ".cpp")) found.push_back(entry.path());
    }
    std::sort(found.begin(), found.end());
    return found;
}

/// The end of a string or character literal that begins at `at`.
std::size_t skip_literal(std::string_view source, std::size_t at) {
    const char quote = source[at];
    for (++at; at < source.size() && source[at] != quote && source[at] != '\n'; ++at) {
        if (source[at] == '\\') ++at;
    }
    return std::min(at + 1, source.size());
}

/// Hands every stretch of the source to code(text) or comment(text). A digit separator (1'000) is no literal.
template <class Code, class Comment> void split_source(std::string_view source, Code&& code, Comment&& comment) {
    std::size_t at = 0;
    while (at < source.size()) {
        const std::string_view rest = source.substr(at);
        if (rest.starts_with("//")) {
            const std::size_t end = std::min(source.find('\n', at), source.size());
            comment(source.substr(at, end - at));
            at = end;
        } else if (rest.starts_with("/*")) {
            const std::size_t close = source.find("*/", at + 2);
            const std::size_t end = close == std::string_view::npos ? source.size() : close + 2;
            comment(source.substr(at, end - at));
            at = end;
        } else if (rest.starts_with("R\"")) {
            const std::size_t open = std::min(source.find('(', at), source.size());
            const std::string close = std::string(1, ')').append(source.substr(at + 2, open - at - 2)) + '"';
            const std::size_t found = source.find(close, open);
            const std::size_t end = found == std::string_view::npos ? source.size() : found + close.size();
            code(source.substr(at, end - at));
            at = end;
        } else {
            const bool separator = source[at] == '\'' && at > 0 && std::isalnum(static_cast<unsigned char>(source[at - 1])) != 0;
            const bool literal = (source[at] == '"' || source[at] == '\'') && !separator;
            const std::size_t end = literal ? skip_literal(source, at) : at + 1;
            code(source.substr(at, end - at));
            at = end;
        }
    }
}

/// Lines without trailing blanks; no two empty ones in a row.
std::string tidy(std::string_view text) {
    std::string result;
    while (!text.empty()) {
        const std::size_t end = std::min(text.find('\n'), text.size());
        std::string_view line = text.substr(0, end);
        text.remove_prefix(std::min(end + 1, text.size()));
        while (!line.empty() && (line.back() == ' ' || line.back() == '\t' || line.back() == '\r')) line.remove_suffix(1);
        if (line.empty() && (result.empty() || result.ends_with("\n\n"))) continue;
        result.append(line) += '\n';
    }
    return result;
}

Text hold_out(std::string text, std::string_view what, const std::string& option, std::size_t context) {
    const std::size_t least = std::max(least_text, 20 * (context + 1));   // so that the held-out tenth holds windows too
    if (text.size() < least) {
        throw std::runtime_error("the " + std::string(what) + " has " + std::to_string(text.size()) + " bytes, and at least " + std::to_string(least) +
                                 " are needed: give a longer text with " + option + " FILE (any text file; several make one text)");
    }
    const std::size_t kept = text.size() - text.size() / 10;
    return {text.substr(0, kept), text.substr(kept)};
}

std::string read_all(const std::vector<std::filesystem::path>& files) {
    std::string text;
    for (const auto& file : files) text += read(file);
    return text;
}

}  // namespace

std::string without_comments(std::string_view source) {
    std::string text;
    split_source(source, [&](std::string_view code) { text += code; }, [](std::string_view) {});
    return tidy(text);
}

std::string only_comments(std::string_view source) {
    std::string text;
    split_source(source, [](std::string_view) {}, [&](std::string_view comment) {
        constexpr std::string_view marks = "/*< ";
        const std::size_t first = comment.find_first_not_of(marks);
        if (first != std::string_view::npos) text.append(comment.substr(first, comment.find_last_not_of(marks) + 1 - first)) += '\n';
    });
    return tidy(text);
}

Text base_text(const std::vector<std::filesystem::path>& files, std::size_t context) {
    std::string text = read_all(files);
    if (files.empty()) {
        for (const auto& path : sources_below(std::filesystem::path(PEFT_SOURCE_DIR) / "include")) text += without_comments(read(path));
    }
    return hold_out(std::move(text), "base text", "--base-text", context);
}

Text tuning_text(const std::vector<std::filesystem::path>& files, std::size_t context) {
    std::string text = read_all(files);
    if (files.empty()) {
        const std::filesystem::path root = PEFT_SOURCE_DIR;
        if (std::filesystem::exists(root / "README.md")) text += read(root / "README.md");
        for (const char* folder : {"include", "examples", "tests", "benchmarks"}) {
            for (const auto& path : sources_below(root / folder)) text += only_comments(read(path));
        }
    }
    return hold_out(std::move(text), "tuning text", "--tune-text", context);
}

void random_batch(std::string_view text, std::size_t count, std::uint64_t seed, std::uint64_t step, Batch& batch) {
    const peft::CounterRandom random({seed, peft::stream_of("batches"), peft::Purpose::data, step});
    batch.windows.resize(count * batch.context);
    batch.targets.resize(count);
    for (std::size_t i = 0; i < count; ++i) {
        const auto places = static_cast<double>(text.size() - batch.context);
        const auto start = static_cast<std::size_t>(random.uniform(i) * places);
        std::copy_n(text.begin() + static_cast<std::ptrdiff_t>(start), batch.context, batch.windows.begin() + static_cast<std::ptrdiff_t>(i * batch.context));
        batch.targets[i] = static_cast<std::uint8_t>(text[start + batch.context]);
    }
}

Batch even_batch(std::string_view text, std::size_t count, std::size_t context) {
    Batch batch{context, {}, {}};
    const std::size_t places = text.size() - context;
    count = std::min(count, places);
    for (std::size_t i = 0; i < count; ++i) {
        const std::size_t start = i * places / count;
        for (const char c : text.substr(start, context)) batch.windows.push_back(static_cast<std::uint8_t>(c));
        batch.targets.push_back(static_cast<std::uint8_t>(text[start + context]));
    }
    return batch;
}

}  // namespace finetune
