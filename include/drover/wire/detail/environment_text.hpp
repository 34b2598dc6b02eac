#pragma once

#include <charconv>
#include <cstddef>
#include <optional>
#include <string>
#include <string_view>
#include <system_error>

#include <drover/wire/worker_info.hpp>

/// Numbers and texts in the value of an environment variable, each followed by a space. In a text '%', the space and
/// NUL, which an environment cannot hold, are written as '%' and two hexadecimal digits.
namespace drover { inline namespace v1 { namespace detail {

/// The longest string in an environment: MAX_ARG_STRLEN of execve(2) without the NUL, where pages have 4 KiB.
inline constexpr std::size_t longest_variable = 128 * 1024 - 1;
/// What a worker's name, tags and extra may take of that, as append_info() writes them. The rest is for the name of the
/// variable and its numbers.
inline constexpr std::size_t most_worker_info = longest_variable - 1024;

inline bool is_escaped(char c) noexcept { return c == '%' || c == ' ' || c == '\0'; }

template <class Number>
void append_number(std::string& to, Number number) {
  (to += std::to_string(number)) += ' ';
}

inline void append_text(std::string& to, std::string_view text) {
  constexpr std::string_view digits = "0123456789abcdef";
  for (const char c : text) {
    if (!is_escaped(c)) {
      to += c;
      continue;
    }
    const auto byte = static_cast<unsigned char>(c);
    ((to += '%') += digits[byte >> 4]) += digits[byte & 15];
  }
  to += ' ';
}

/// Takes what append_number() and append_text() have written.
class EnvironmentReader {
 public:
  explicit EnvironmentReader(std::string_view text) noexcept : rest_(text) {}

  /// Leaves `number` as it is if something else is there.
  template <class Number>
  void take(Number& number) {
    const std::optional<std::string_view> word = next();
    if (!word) return;
    const auto [end, error] = std::from_chars(word->data(), word->data() + word->size(), number);
    sound_ = error == std::errc() && end == word->data() + word->size();
  }

  std::string take_text() {
    std::string text;
    const std::string_view word = next().value_or("");
    for (std::size_t at = 0; at < word.size() && sound_; ++at) {
      unsigned char byte = static_cast<unsigned char>(word[at]);
      if (byte == '%') {
        const std::string_view digits = word.substr(at + 1, 2);
        const auto [end, error] = std::from_chars(digits.data(), digits.data() + digits.size(), byte, 16);
        sound_ = digits.size() == 2 && error == std::errc() && end == digits.data() + digits.size();
        at += 2;
      }
      text += static_cast<char>(byte);
    }
    return text;
  }

  /// All was as it has to be so far.
  bool sound() const noexcept { return sound_; }
  bool at_end() const noexcept { return rest_.empty(); }

 private:
  std::optional<std::string_view> next() noexcept {
    const std::size_t end = rest_.find(' ');
    sound_ = sound_ && end != std::string_view::npos;
    if (!sound_) return std::nullopt;
    const std::string_view word = rest_.substr(0, end);
    rest_.remove_prefix(end + 1);
    return word;
  }

  std::string_view rest_;
  bool sound_ = true;
};

inline void append_info(std::string& to, const WorkerInfo& worker) {
  append_number(to, worker.slot);
  append_number(to, worker.tags.size());
  append_number(to, worker.extra.size());
  append_text(to, worker.name);
  for (const std::string& tag : worker.tags) append_text(to, tag);
  for (const auto& [key, value] : worker.extra) {
    append_text(to, key);
    append_text(to, value);
  }
}

inline WorkerInfo take_info(EnvironmentReader& from) {
  WorkerInfo worker;
  std::size_t tags = 0, extra = 0;
  from.take(worker.slot);
  from.take(tags);
  from.take(extra);
  worker.name = from.take_text();
  for (; tags != 0 && from.sound(); --tags) worker.tags.insert(from.take_text());
  for (; extra != 0 && from.sound(); --extra) {
    std::string key = from.take_text();
    worker.extra.insert_or_assign(std::move(key), from.take_text());
  }
  return worker;
}

/// How many bytes append_text() appends.
inline std::size_t size_of_text(std::string_view text) noexcept {
  std::size_t size = text.size() + 1;
  for (const char c : text)
    if (is_escaped(c)) size += 2;
  return size;
}

}}}  // namespace drover::v1::detail
