#pragma once

#include <algorithm>
#include <cctype>
#include <cstddef>
#include <cstdlib>
#include <limits>
#include <map>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <utility>
#include <vector>

/// A strict reader of the text format of Prometheus, version 0.0.4.
namespace support {

using Labels = std::map<std::string, std::string>;

struct Metric {
  std::string type, help;
  /// By the name of the sample, with the suffixes of a histogram, and its labels.
  std::map<std::pair<std::string, Labels>, double> samples;
};

class MetricsParser {
 public:
  /// Throws std::runtime_error with the line that is wrong.
  static std::map<std::string, Metric> parse(const std::string& text) {
    MetricsParser parser;
    if (!text.empty() && text.back() != '\n') throw std::runtime_error("the last line has no end");
    for (std::size_t at = 0; at < text.size();) {
      const std::size_t end = text.find('\n', at);
      parser.line_ = text.substr(at, end - at);
      parser.read_line();
      at = end + 1;
    }
    for (const auto& [name, metric] : parser.metrics_) {
      parser.line_ = name;
      parser.require(!metric.type.empty() && !metric.help.empty(), "no TYPE or no HELP");
      if (metric.type == "histogram") parser.check_histogram(name, metric);
    }
    return std::move(parser.metrics_);
  }

 private:
  void require(bool holds, const char* what) const {
    if (!holds) throw std::runtime_error(std::string(what) + ": " + line_);
  }
  static bool is_name_start(char c) { return std::isalpha(static_cast<unsigned char>(c)) != 0 || c == '_'; }
  static bool is_name(char c) { return is_name_start(c) || std::isdigit(static_cast<unsigned char>(c)) != 0; }

  std::string read_name() {
    const std::size_t begin = at_;
    require(at_ < line_.size() && is_name_start(line_[at_]), "no name");
    while (at_ < line_.size() && is_name(line_[at_])) ++at_;
    return line_.substr(begin, at_ - begin);
  }
  void read(std::string_view expected) {
    require(line_.compare(at_, expected.size(), expected) == 0, "not as expected");
    at_ += expected.size();
  }
  std::string read_quoted() {
    read("\"");
    std::string value;
    for (;; ++at_) {
      require(at_ < line_.size(), "a label without an end");
      if (line_[at_] == '"') break;
      if (line_[at_] != '\\') {
        value += line_[at_];
        continue;
      }
      require(++at_ < line_.size(), "a label without an end");
      const char c = line_[at_];
      require(c == '\\' || c == '"' || c == 'n', "an unknown escape");
      value += c == 'n' ? '\n' : c;
    }
    read("\"");
    return value;
  }
  Labels read_labels() {
    Labels labels;
    read("{");
    while (line_[at_] != '}') {
      if (!labels.empty()) read(",");
      const std::string name = read_name();
      read("=");
      require(labels.emplace(name, read_quoted()).second, "a label twice");
      require(at_ < line_.size(), "labels without an end");
    }
    read("}");
    return labels;
  }
  double read_number() {
    read(" ");
    const std::string number = line_.substr(at_);
    require(!number.empty() && number.find_first_not_of("0123456789.") == std::string::npos, "not a number");
    char* end = nullptr;
    const double value = std::strtod(number.c_str(), &end);
    require(*end == '\0', "not a number");
    return value;
  }

  void read_line() {
    at_ = 0;
    if (line_.starts_with("# ")) return read_comment();
    const std::string sample = read_name();
    const Labels labels = read_labels();
    const double value = read_number();
    Metric& metric = metrics_.at(current_);
    require(!metric.type.empty(), "a sample before its TYPE");
    const bool histogram = metric.type == "histogram";
    require(sample == current_ ? !histogram
                               : histogram && (sample == current_ + "_bucket" || sample == current_ + "_sum" ||
                                               sample == current_ + "_count"),
            "a sample of another metric");
    require(metric.samples.emplace(std::pair(sample, labels), value).second, "a sample twice");
  }
  void read_comment() {
    read("# ");
    const std::string kind = read_name();
    read(" ");
    const std::string name = read_name();
    read(" ");
    const std::string rest = line_.substr(at_);
    require(!rest.empty(), "an empty comment");
    if (kind == "HELP") {
      require(metrics_.try_emplace(name).second, "a metric twice");
      current_ = name;
      metrics_[name].help = rest;
      return;
    }
    require(kind == "TYPE" && name == current_, "a TYPE without its HELP");
    require(rest == "counter" || rest == "gauge" || rest == "histogram", "an unknown type");
    require((rest == "counter") == name.ends_with("_total"), "only counters end in _total");
    metrics_[name].type = rest;
  }

  void check_histogram(const std::string& name, const Metric& metric) const {
    std::map<Labels, std::vector<std::pair<double, double>>> buckets;
    for (const auto& [key, value] : metric.samples) {
      auto [sample, labels] = key;
      if (sample != name + "_bucket") continue;
      require(labels.contains("le"), "a bucket without its bound");
      const std::string bound = labels.at("le");
      labels.erase("le");
      buckets[labels].emplace_back(
          bound == "+Inf" ? std::numeric_limits<double>::infinity() : std::strtod(bound.c_str(), nullptr), value);
    }
    require(buckets.size() * 2 + count_of(buckets) == metric.samples.size(), "sums, counts and buckets do not match");
    for (auto& [labels, all] : buckets) {
      std::sort(all.begin(), all.end());
      require(all.back().first == std::numeric_limits<double>::infinity(), "no bucket +Inf");
      require(metric.samples.at({name + "_count", labels}) == all.back().second, "the count is not that of +Inf");
      require(metric.samples.contains({name + "_sum", labels}), "no sum");
      for (std::size_t i = 1; i < all.size(); ++i)
        require(all[i - 1].first < all[i].first && all[i - 1].second <= all[i].second, "buckets are not cumulative");
    }
  }
  static std::size_t count_of(const std::map<Labels, std::vector<std::pair<double, double>>>& buckets) {
    std::size_t count = 0;
    for (const auto& [labels, all] : buckets) count += all.size();
    return count;
  }

  std::map<std::string, Metric> metrics_;
  std::string current_;  // the metric whose lines are being read
  std::string line_;
  std::size_t at_ = 0;
};

}  // namespace support
