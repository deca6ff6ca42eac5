#pragma once
#include <peft/core/error.hpp>
#include <peft/io/json.hpp>

#include <algorithm>
#include <array>
#include <bit>
#include <concepts>
#include <cstddef>
#include <cstdint>
#include <cstring>
#include <limits>
#include <map>
#include <optional>
#include <span>
#include <string>
#include <string_view>
#include <tuple>
#include <utility>
#include <vector>

PEFT_BEGIN
namespace io {

static_assert(std::endian::native == std::endian::little, "tensor files are little-endian and are copied as they are");

/// What the numbers of a tensor are stored in.
enum class Dtype : std::uint8_t {
    BOOL, F4, F6_E2M3, F6_E3M2, U8, I8, F8_E5M2, F8_E4M3, F8_E8M0, I16, U16, F16, BF16, I32, U32, F32, C64, F64, I64, U64
};

/// One tensor of a file. Bytes [begin, end) of the data area hold it, row-major.
struct TensorInfo {
    std::string name{};
    Dtype dtype = Dtype::F32;
    std::vector<std::size_t> shape{};
    std::uint64_t begin = 0;
    std::uint64_t end = 0;

    std::uint64_t byte_count() const noexcept { return end - begin; }
};

/// A tensor to be written; `bytes` are its numbers, row-major and little-endian.
struct TensorData {
    std::string name{};
    Dtype dtype = Dtype::F32;
    std::vector<std::size_t> shape{};
    std::span<const std::byte> bytes{};
};

/// The __metadata__ of a tensor file.
using Metadata = std::map<std::string, std::string, std::less<>>;

}  // namespace io
PEFT_END

PEFT_ISA_DETAIL_BEGIN

struct DtypeRow {
    std::string_view name;
    unsigned bits;
};
/// Indexed by Dtype. Source: huggingface/safetensors, safetensors/src/tensor.rs.
inline constexpr std::array<DtypeRow, 20> dtype_rows{{{"BOOL", 8},     {"F4", 4},       {"F6_E2M3", 6}, {"F6_E3M2", 6}, {"U8", 8},
                                                      {"I8", 8},       {"F8_E5M2", 8},  {"F8_E4M3", 8}, {"F8_E8M0", 8}, {"I16", 16},
                                                      {"U16", 16},     {"F16", 16},     {"BF16", 16},   {"I32", 32},    {"U32", 32},
                                                      {"F32", 32},     {"C64", 64},     {"F64", 64},    {"I64", 64},    {"U64", 64}}};

inline constexpr std::uint64_t header_limit = 100'000'000;   // of the reference reader
inline constexpr std::size_t tensor_rank_limit = 1024;       // ours: far above any model, bounds the memory a header can ask for
inline constexpr std::string_view metadata_name = "__metadata__";

inline std::string dims_text(std::span<const std::size_t> shape) {
    std::string text = "[";
    for (std::size_t i = 0; i < shape.size(); ++i) {
        if (text.size() > 120) return text + ", ...]";
        if (i != 0) text += ", ";
        text += std::to_string(shape[i]);
    }
    return text + "]";
}

/// How a tensor is called in an error; an empty name would vanish.
inline std::string tensor_subject(std::string_view name) { return name.empty() ? "tensor \"\"" : std::string(name); }

/// Bytes of a tensor, or nothing where bits or elements leave 64 bits. Dimensions of zero are taken last: whether
/// [2^64-1, 2^64-1, 0] is refused must not depend on the order.
inline std::optional<std::uint64_t> bit_count(io::Dtype dtype, std::span<const std::size_t> shape) noexcept {
    std::uint64_t bits = dtype_rows[static_cast<std::size_t>(dtype)].bits;
    bool empty = false;
    for (const std::size_t dimension : shape) {
        if (dimension == 0) empty = true;
        else if (__builtin_mul_overflow(bits, std::uint64_t{dimension}, &bits)) return std::nullopt;
    }
    return empty ? 0 : bits;
}

/// Bytes of a tensor; FormatError if they overflow or are no whole number.
inline std::uint64_t checked_byte_count(const std::string& file, std::string_view name, io::Dtype dtype, std::span<const std::size_t> shape) {
    const auto bits = bit_count(dtype, shape);
    if (bits && *bits % 8 == 0) return *bits / 8;
    throw FormatError(bits ? "the tensor does not fill whole bytes" : "the size of the tensor overflows",
                      {.file = file,
                       .subject = tensor_subject(name),
                       .found = std::string(dtype_rows[static_cast<std::size_t>(dtype)].name) + " " + dims_text(shape)});
}

/// Key and value pairs in one piece of text: about as large as their source, whatever the file holds.
struct PackedPairs {
    std::string text;
    std::vector<std::uint32_t> ends;   // of key, value, key, value, ...

    std::string_view part(std::size_t index) const noexcept {
        const std::size_t begin = index == 0 ? 0 : ends[index - 1];
        return std::string_view(text).substr(begin, ends[index] - begin);
    }
    void append(std::string_view part_text) {
        text += part_text;
        ends.push_back(static_cast<std::uint32_t>(text.size()));
    }
    std::size_t pairs() const noexcept { return ends.size() / 2; }
};

/// Reads the header of a tensor file from JSON events, straight into the table: no tree, a few times the header at most.
class HeaderReader {
public:
    using number_integer_t = nlohmann::json::number_integer_t;
    using number_unsigned_t = nlohmann::json::number_unsigned_t;
    using number_float_t = nlohmann::json::number_float_t;
    using string_t = nlohmann::json::string_t;
    using binary_t = nlohmann::json::binary_t;

    explicit HeaderReader(const std::string& file) : file_(file) {}

    bool null() {
        if (place_ == Place::metadata_value) {   // the reference takes it for absent
            place_ = Place::names;
            return true;
        }
        return other("null");
    }
    bool boolean(bool value) { return other(value ? "true" : "false"); }
    bool number_integer(number_integer_t value) { return other(value == 0 ? "-0" : std::to_string(value)); }
    bool number_unsigned(number_unsigned_t value) {
        if (place_ == Place::shape_items) {
            if (value > std::numeric_limits<std::size_t>::max()) return other(std::to_string(value));
            if (numbers_.size() == tensor_rank_limit) {
                fault("the tensor has too many dimensions", "at most " + std::to_string(tensor_rank_limit), "more");
            }
            numbers_.push_back(static_cast<std::size_t>(value));
            return true;
        }
        if (place_ == Place::offset_items) {
            if (offset_count_ < 2) offsets_[offset_count_] = value;
            ++offset_count_;
            return true;
        }
        return other(std::to_string(value));
    }
    bool number_float(number_float_t, const string_t& text) { return other(text); }
    bool string(string_t& value) {
        if (place_ == Place::metadata_item) {
            metadata.append(value);
            place_ = Place::metadata_keys;
            return true;
        }
        if (place_ == Place::dtype_value) {
            const auto* row = std::find_if(dtype_rows.begin(), dtype_rows.end(), [&](const DtypeRow& known) { return known.name == value; });
            if (row == dtype_rows.end()) fault("unknown dtype", "a dtype such as F32", '"' + printable(value, 100) + '"');
            current_.dtype = static_cast<io::Dtype>(row - dtype_rows.begin());
            place_ = Place::fields;
            return true;
        }
        return other('"' + printable(value, 100) + '"');
    }
    bool binary(binary_t&) { return false; }

    bool start_object(std::size_t) {
        enter();
        switch (place_) {
        case Place::start: place_ = Place::names; return true;
        case Place::metadata_value: place_ = Place::metadata_keys; return true;
        case Place::entry_value:
            place_ = Place::fields;
            seen_ = {};
            return true;
        case Place::ignored: ++ignored_depth_; return true;
        default: return wrong("an object");
        }
    }
    bool start_array(std::size_t) {
        enter();
        switch (place_) {
        case Place::shape_value:
            place_ = Place::shape_items;
            numbers_.clear();
            return true;
        case Place::offset_value:
            place_ = Place::offset_items;
            offset_count_ = 0;
            return true;
        case Place::ignored: ++ignored_depth_; return true;
        default: return wrong("an array");
        }
    }
    bool key(string_t& name) {
        switch (place_) {
        case Place::names:
            if (name == metadata_name) {
                if (std::exchange(has_metadata_, true)) {
                    throw FormatError("the metadata block is given twice", {.file = file_, .subject = std::string(metadata_name)});
                }
                place_ = Place::metadata_value;
            } else {
                current_.name = name;
                place_ = Place::entry_value;
            }
            break;
        case Place::metadata_keys:
            metadata.append(name);
            place_ = Place::metadata_item;
            break;
        case Place::fields:
            if (name == "dtype") field(0, "dtype", Place::dtype_value);
            else if (name == "shape") field(1, "shape", Place::shape_value);
            else if (name == "data_offsets") field(2, "data_offsets", Place::offset_value);
            else place_ = Place::ignored;   // from a newer writer; whatever it holds
            break;
        default: break;
        }
        return true;
    }
    bool end_object() {
        --depth_;
        switch (place_) {
        case Place::names: place_ = Place::done; break;
        case Place::metadata_keys: place_ = Place::names; break;
        case Place::fields: finish_entry(); break;
        default: leave_ignored();
        }
        return true;
    }
    bool end_array() {
        --depth_;
        if (place_ == Place::shape_items) {
            current_.shape.assign(numbers_.begin(), numbers_.end());
            place_ = Place::fields;
        } else if (place_ == Place::offset_items) {
            if (offset_count_ != 2) {
                fault("wrong data_offsets", "two integers", std::to_string(offset_count_));
            }
            current_.begin = offsets_[0];
            current_.end = offsets_[1];
            if (current_.begin > current_.end) {
                fault("data_offsets end before they begin", "begin <= end",
                      "[" + std::to_string(current_.begin) + ", " + std::to_string(current_.end) + "]");
            }
            place_ = Place::fields;
        } else {
            leave_ignored();
        }
        return true;
    }
    bool parse_error(std::size_t position, const std::string&, const nlohmann::detail::exception& error) {
        const std::size_t offset = skipped + position - (position == 0 ? 0 : 1);
        // NaN or 1e400 in a shape is the fault of that tensor
        if (place_ == Place::shape_items || place_ == Place::offset_items) {
            fault(place_ == Place::shape_items ? "wrong dimension in the shape" : "wrong data_offsets", "integers",
                  std::string(json_reason(error.what())) + " at byte " + std::to_string(offset) + " of the header");
        }
        json_fault({file_, "header"}, offset, json_reason(error.what()));
    }

    std::size_t skipped = 0;
    std::vector<io::TensorInfo> tensors;
    PackedPairs metadata;

private:
    enum class Place {
        start, names, done,                                   // the header object
        metadata_value, metadata_keys, metadata_item,         // __metadata__
        entry_value, fields, dtype_value, shape_value, shape_items, offset_value, offset_items,
        ignored
    };

    void enter() {
        if (++depth_ > io::json_depth_limit) {
            throw FormatError("the header is nested too deep",
                              {.file = file_,
                               .subject = place_ == Place::ignored ? tensor_subject(current_.name) : std::string(),
                               .expected = "at most " + std::to_string(io::json_depth_limit) + " levels"});
        }
    }
    void leave_ignored() {
        if (place_ == Place::ignored && --ignored_depth_ == 0) place_ = Place::fields;
    }
    // A scalar that is not what its place wants.
    bool other(std::string found) {
        if (place_ != Place::ignored) return wrong(std::move(found));
        if (ignored_depth_ == 0) place_ = Place::fields;
        return true;
    }
    [[noreturn]] bool wrong(std::string found) const {
        switch (place_) {
        case Place::start:
            throw FormatError("the header is of the wrong type",
                              {.file = file_, .expected = "a JSON object", .found = std::move(found)});
        case Place::metadata_value: metadata_fault("the metadata block is of the wrong type", "an object of strings", std::move(found));
        case Place::metadata_item:
            metadata_fault("the value of \"" + printable(metadata.part(metadata.ends.size() - 1), 80) + "\" is of the wrong type",
                           "a string", std::move(found));
        case Place::entry_value: fault("the entry of a tensor is of the wrong type", "an object", std::move(found));
        case Place::dtype_value: fault("the dtype is of the wrong type", "a string", std::move(found));
        case Place::shape_value: fault("the shape is of the wrong type", "an array of integers", std::move(found));
        case Place::shape_items: fault("wrong dimension in the shape", "an integer that is not negative", std::move(found));
        case Place::offset_value: fault("data_offsets are of the wrong type", "an array of two integers", std::move(found));
        case Place::offset_items: fault("wrong data_offsets", "integers that are not negative", std::move(found));
        default: throw FormatError("unexpected value in the header", {.file = file_, .found = std::move(found)});
        }
    }
    void field(std::size_t index, std::string_view name, Place next) {
        if (std::exchange(seen_[index], true)) fault("the field \"" + std::string(name) + "\" is given twice", {}, {});
        place_ = next;
    }
    void finish_entry() {
        constexpr std::array<std::string_view, 3> names{"dtype", "shape", "data_offsets"};
        for (std::size_t i = 0; i < names.size(); ++i)
            if (!seen_[i]) fault("the field \"" + std::string(names[i]) + "\" is missing", {}, {});
        tensors.push_back(std::move(current_));
        current_ = {};
        place_ = Place::names;
    }
    [[noreturn]] PEFT_COLD void fault(std::string_view what, std::string expected, std::string found) const {
        throw FormatError(what, {.file = file_,
                                 .subject = tensor_subject(current_.name),
                                 .expected = std::move(expected),
                                 .found = std::move(found)});
    }
    [[noreturn]] PEFT_COLD void metadata_fault(std::string_view what, std::string expected, std::string found) const {
        throw FormatError(what, {.file = file_,
                                 .subject = std::string(metadata_name),
                                 .expected = std::move(expected),
                                 .found = std::move(found)});
    }

    const std::string& file_;
    Place place_ = Place::start;
    std::size_t depth_ = 0;
    std::size_t ignored_depth_ = 0;
    bool has_metadata_ = false;
    std::array<bool, 3> seen_{};
    io::TensorInfo current_;
    std::vector<std::size_t> numbers_;
    std::array<std::uint64_t, 2> offsets_{};
    std::size_t offset_count_ = 0;
};

PEFT_ISA_DETAIL_END
