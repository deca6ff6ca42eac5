#pragma once
#include <peft/core/error.hpp>
#include <peft/io/pattern_compiler.hpp>

#include <algorithm>
#include <array>
#include <cstddef>
#include <cstdint>
#include <limits>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

PEFT_ISA_DETAIL_BEGIN

/// Runs all ways through the automaton at once, a character at a time, in the order in which a backtracking matcher would
/// try them. Time and memory are bounded by (steps x characters) and (steps), whatever the pattern.
class PatternRun {
public:
    struct Marks {
        std::size_t begin = std::string_view::npos;
        std::size_t end = std::string_view::npos;
    };

    PatternRun(const PatternProgram& program, std::string_view text)
        : program_(program), text_(text), seen_(program.steps.size(), 0) {}

    /// The marks of the way that wins, if any way ends in a match: at the end of the text only, if `whole`.
    std::optional<Marks> run(bool whole) {
        std::optional<Marks> result;
        std::size_t at = 0;
        follow(0, at, {});
        while (!now_.empty()) {
            std::size_t after = at;
            const bool ended = at == text_.size();
            const char32_t character = ended ? 0 : next_character(text_, after);
            std::swap(now_, before_);
            now_.clear();
            ++round_;
            for (const Thread& thread : before_) {
                const PatternStep& step = program_.steps[thread.step];
                if (step.kind == PatternStep::Kind::match) {
                    if (whole && !ended) continue;
                    result = thread.marks;
                    break;   // what follows in the order would not have been tried
                }
                if (ended) continue;
                const bool fits = step.kind == PatternStep::Kind::character ? step.character == character
                                                                            : program_.sets[step.other].has(character);
                if (fits) follow(step.next, after, thread.marks);
            }
            if (ended) break;
            at = after;
        }
        return result;
    }

private:
    struct Thread {
        std::uint32_t step;
        Marks marks;
    };

    // Adds what can be reached from `step` without reading a character.
    void follow(std::uint32_t first, std::size_t at, Marks first_marks) {
        pending_.push_back({first, first_marks});
        while (!pending_.empty()) {
            auto [index, marks] = pending_.back();
            pending_.pop_back();
            while (seen_[index] != round_ + 1) {
                seen_[index] = round_ + 1;
                const PatternStep& step = program_.steps[index];
                switch (step.kind) {
                case PatternStep::Kind::split:
                    pending_.push_back({step.other, marks});
                    index = step.next;
                    continue;
                case PatternStep::Kind::jump: index = step.next; continue;
                case PatternStep::Kind::mark:
                    (step.other == 0 ? marks.begin : marks.end) = at;
                    index = step.next;
                    continue;
                case PatternStep::Kind::character:
                case PatternStep::Kind::set:
                case PatternStep::Kind::match: now_.push_back({index, marks}); break;
                default:
                    if (holds(step.kind, at)) {
                        index = step.next;
                        continue;
                    }
                }
                break;
            }
        }
    }
    bool holds(PatternStep::Kind kind, std::size_t at) const noexcept {
        switch (kind) {
        case PatternStep::Kind::text_begin: return at == 0;
        case PatternStep::Kind::text_end: return at == text_.size();
        case PatternStep::Kind::line_end: return at == text_.size() || (at + 1 == text_.size() && text_[at] == '\n');
        case PatternStep::Kind::boundary: return word(at) != (at != 0 && word(at - 1));
        // an empty text has no place for it: Python before 3.14
        case PatternStep::Kind::no_boundary: return !text_.empty() && word(at) == (at != 0 && word(at - 1));
        default: return false;
        }
    }
    bool word(std::size_t at) const noexcept {
        if (at >= text_.size()) return false;
        const char c = text_[at];
        return (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') || c == '_' || (c >= 'a' && c <= 'z');
    }

    const PatternProgram& program_;
    std::string_view text_;
    std::vector<std::size_t> seen_;   // round in which a step was reached last, plus 1
    std::size_t round_ = 0;
    std::vector<Thread> now_, before_, pending_;
};

PEFT_ISA_DETAIL_END

PEFT_BEGIN
namespace io {
inline namespace PEFT_ISA_NAME {

/// A regular expression as adapter configurations use them: the part of Python's `re` that an automaton can match.
///   literals, . and escapes \. \d \w \s \D \W \S \b \B \A \Z \n \t \xhh \uhhhh; sets [...] with ranges, classes and ^;
///   groups ( ) and (?: ); |; * + ? {m} {m,} {,n} {m,n}, each also lazy; ^ at the start; $ at the end or before one last
///   line feed, as in Python.
/// Anything else (backreferences, lookaround, named groups, inline flags, possessive quantifiers, octal escapes) is a
/// FormatError that names it and its offset, as is a pattern that Python refuses. Text is read as UTF-8; \d \w \s \b know
/// ASCII only, where Python knows all of Unicode. Matching takes time proportional to pattern times text at most: there
/// is no pattern that hangs. Written-out repetitions are limited to 50,000 steps, nested groups to 100.
class Pattern {
public:
    /// `file` and `key` are named in errors.
    explicit Pattern(std::string_view pattern, std::string_view file = {}, std::string_view key = {})
        : Pattern({}, pattern, {}, file, key) {}
    /// `before` + pattern + `after`, where offsets in errors count from the start of `pattern`.
    Pattern(std::string_view before, std::string_view pattern, std::string_view after, std::string_view file, std::string_view key) {
        std::string text(before);
        text.append(pattern).append(after);
        program_ = detail::PatternCompiler(text, before.size(), pattern, file, key).compile(true);
    }

    /// The whole text matches: re.fullmatch.
    bool full_match(std::string_view text) const { return detail::PatternRun(program_, text).run(true).has_value(); }
    /// The text matches from its start on: re.match.
    bool match_prefix(std::string_view text) const { return detail::PatternRun(program_, text).run(false).has_value(); }
    /// What the last group of the pattern holds after re.match; nothing without a match or if the group took no part.
    std::optional<std::string_view> last_group(std::string_view text) const {
        const auto marks = detail::PatternRun(program_, text).run(false);
        if (!marks || marks->begin == std::string_view::npos || marks->end == std::string_view::npos) return std::nullopt;
        return text.substr(marks->begin, marks->end - marks->begin);
    }

private:
    detail::PatternProgram program_;
};

/// Finds the number of the layer in names such as "model.layers.12.mlp.up_proj", given the pattern of what stands before it;
/// empty: any one component. The name must begin before and go on after these components.
/// Source: huggingface/peft, src/peft/tuners/tuners_utils.py.
class LayerIndex {
public:
    explicit LayerIndex(std::string_view layers_pattern = {}, std::string_view file = {}, std::string_view key = "layers_pattern")
        : pattern_(".*?\\.", layers_pattern.empty() ? "[^.]*" : layers_pattern, "\\.(\\d+)\\.", file, key) {}

    /// Nothing if there is no such number, or none that fits std::size_t.
    std::optional<std::size_t> operator()(std::string_view module) const {
        const auto digits = pattern_.last_group(module);
        if (!digits) return std::nullopt;
        std::size_t index = 0;
        for (const char digit : *digits) {
            const auto value = static_cast<std::size_t>(digit - '0');
            if (index > (std::numeric_limits<std::size_t>::max() - value) / 10) return std::nullopt;
            index = index * 10 + value;
        }
        return index;
    }

private:
    Pattern pattern_;
};

/// The same for one name.
inline std::optional<std::size_t> layer_index(std::string_view module, std::string_view layers_pattern = {}) {
    return LayerIndex(layers_pattern)(module);
}

}  // namespace PEFT_ISA_NAME
}  // namespace io
PEFT_END
