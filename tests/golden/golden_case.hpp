#pragma once
// A golden case: its description, its tensors, and the account of what has been compared.
#include <peft/io/file.hpp>
#include <peft/io/json.hpp>
#include <peft/io/safetensors.hpp>

#include <algorithm>
#include <cmath>
#include <map>
#include <set>
#include <string>
#include <string_view>
#include <vector>

namespace golden {

/// The quantities of a case by the column that reports them.
enum class Column { y, dx, grads, merged };

/// Where a tensor is reported; false if it is an input.
inline bool column_of(std::string_view name, Column& column) {
    if (name == "y" || name == "y_f64" || name == "y_converted_f64") return column = Column::y, true;
    if (name == "dx") return column = Column::dx, true;
    if (name.starts_with("grad.") || name.starts_with("grad_raw.")) return column = Column::grads, true;
    if (name.starts_with("merged.") || name.starts_with("delta.")) return column = Column::merged, true;
    if (name.starts_with("io.")) {
        const bool gradient = name.ends_with(".dout") || name.ends_with(".din");
        return column = gradient ? Column::dx : Column::y, true;
    }
    return false;
}

struct ColumnResult {
    std::size_t present = 0;
    std::size_t compared = 0;
    double error = 0;          ///< largest, relative to the tensor's maximum
    bool within = true;
};

template <class T> class Case {
public:
    explicit Case(const std::string& directory)
        : directory_(directory), json_(peft::io::parse_json(peft::io::read_file(directory + "/case.json", 1u << 24), directory + "/case.json")), file_(directory + "/tensors.safetensors") {
        double largest = 0;
        for (const auto& info : file_.tensors()) {
            Column column;
            if (info.name.starts_with("base.") && info.name.ends_with("weight")) largest_weight_ = std::max(largest_weight_, max_abs(read(info.name)));
            if (!column_of(info.name, column)) continue;
            columns_[column].present += 1;
            if (column == Column::grads) largest = std::max(largest, max_abs(read(info.name)));
        }
        largest_gradient_ = largest;
    }

    const std::string& directory() const { return directory_; }
    const peft::Value& json() const { return json_; }
    std::string text(std::string_view key) const {
        const peft::Value* value = json_.find(key);
        return value != nullptr && value->is_string() ? value->as_string() : std::string();
    }
    /// True for cases of the methods' own repositories (golden_methods): they name a class, not a model.
    bool of_methods() const { return json_.find("cls") != nullptr; }

    bool has(std::string_view name) const { return file_.find(std::string(name)) != nullptr; }
    peft::Matrix<double> read(std::string_view name) const { return read_as<double>(name); }
    /// An input in the type of the replay.
    peft::Matrix<T> input(std::string_view name) const { return read_as<T>(name); }
    /// Compares a computed tensor with the case's; nothing happens if the case does not hold it.
    template <class U> void compare(const std::string& name, peft::MatrixView<const U> computed) {
        Column column;
        if (!has(name) || !column_of(name, column) || !seen_.insert(name).second) return;
        ColumnResult& result = columns_[column];
        result.compared += 1;
        const peft::Matrix<double> expected = read(name);
        double error = expected.size() == computed.size() ? 0.0 : std::numeric_limits<double>::infinity();
        const std::size_t cols = computed.cols();
        for (std::size_t k = 0; k < expected.size() && error < 1e300; ++k) {
            const double difference = std::abs(expected.data()[k] - static_cast<double>(computed(k / cols, k % cols)));
            error = difference <= 1e300 ? std::max(error, difference) : std::numeric_limits<double>::infinity();
        }
        double scale = max_abs(expected);
        if (of_methods() && column == Column::grads) scale = std::max(scale, 1e-3 * largest_gradient_);
        // A delta far below the weight is what cancellation left of larger terms: measure it on a scale the merge can see.
        if (name.starts_with("delta.")) scale = std::max(scale, 1e-2 * largest_weight_);
        error = error == 0 ? 0 : error / scale;
        result.error = std::max(result.error, error);
        if (!(error <= tolerance(column))) result.within = false;
    }
    template <class U> void compare(const std::string& name, const peft::Matrix<U>& computed) { compare<U>(name, computed.view()); }

    /// The READMEs' tolerances: they are no options.
    double tolerance(Column column) const {
        if (std::is_same_v<T, double> && !single_precision_start_) return 1e-6;
        double limit = 1e-5;
        if (!of_methods() && column == Column::grads && text("method") == "RANDLORA") limit = 5e-5;
        if (of_methods()) {
            const peft::Value* seen = json_.find("tolerances_seen_f32_vs_f64");
            const char* key = column == Column::grads ? "grads" : column == Column::dx ? "dx" : "y";
            const peft::Value* stated = seen == nullptr || !seen->is_object() ? nullptr : seen->find(key);
            if (stated != nullptr && stated->is_number()) limit = std::max(limit, 4 * stated->as_number());
        }
        return limit;
    }

    /// Takes tensors out of the account: what they hold is not what this replay computes.
    void leave_out(std::string_view prefix) {
        for (const auto& info : file_.tensors()) {
            Column column;
            if (std::string_view(info.name).starts_with(prefix) && column_of(info.name, column) && seen_.insert(info.name).second) columns_[column].present -= 1;
        }
    }
    /// Upstream decomposes in float32 whatever the model is in: a start that is repeated in double differs by that.
    void expect_single_precision_start() { single_precision_start_ = true; }
    /// The worse of two replays of the same case.
    void absorb(Case& other) {
        for (auto& [name, column] : columns_) {
            column.error = std::max(column.error, other.columns_[name].error);
            column.within = column.within && other.columns_[name].within;
        }
    }

    const ColumnResult& column(Column column) { return columns_[column]; }
    std::size_t comparable() {
        std::size_t count = 0;
        for (const auto& [name, column] : columns_) count += column.present;
        return count;
    }
    std::size_t compared() {
        std::size_t count = 0;
        for (const auto& [name, column] : columns_) count += column.compared;
        return count;
    }
    bool within() {
        for (const auto& [name, column] : columns_) {
            if (!column.within) return false;
        }
        return true;
    }
    /// Names of the comparable tensors nothing was compared with.
    std::vector<std::string> missed() const {
        std::vector<std::string> result;
        for (const auto& info : file_.tensors()) {
            Column column;
            if (column_of(info.name, column) && seen_.count(info.name) == 0) result.push_back(info.name);
        }
        return result;
    }

    static double max_abs(const peft::Matrix<double>& values) {
        double largest = 0;
        for (const double value : values.flat()) largest = std::max(largest, std::abs(value));
        return largest;
    }

private:
    /// A tensor of any rank; all but the last dimension become rows.
    template <class U> peft::Matrix<U> read_as(std::string_view name) const {
        const auto& info = file_.at(name);
        std::size_t count = 1;
        for (const std::size_t extent : info.shape) count *= extent;
        const std::size_t cols = info.shape.empty() ? 1 : info.shape.back();
        peft::Matrix<U> values(cols == 0 ? 0 : count / cols, cols);
        file_.template read_values<U>(info, values.flat());
        return values;
    }

    std::string directory_;
    peft::Value json_;
    peft::io::SafetensorsFile file_;
    std::map<Column, ColumnResult> columns_;
    std::set<std::string> seen_;
    bool single_precision_start_ = false;
    double largest_gradient_ = 0;
    double largest_weight_ = 0;
};

}  // namespace golden
