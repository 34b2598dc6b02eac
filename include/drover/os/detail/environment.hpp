#pragma once

#include <cerrno>
#include <cstdlib>
#include <filesystem>
#include <limits.h>
#include <set>
#include <stdexcept>
#include <string>
#include <string_view>
#include <unistd.h>
#include <utility>
#include <vector>

#include <drover/os/command.hpp>

/// Prepares a command for execution: its environment, its arguments, the file to execute.
namespace drover { inline namespace v1 { namespace detail {

inline void require_no_nul(std::string_view text, const char* what) {
  if (text.find('\0') != std::string_view::npos)
    throw std::invalid_argument(std::string(what) + " must not contain a zero byte");
}

inline void require_variable_name(std::string_view name) {
  require_no_nul(name, "the name of an environment variable");
  if (name.empty() || name.find('=') != std::string_view::npos)
    throw std::invalid_argument("the name of an environment variable must not be empty or contain '='");
}

/// Strings, and the null-terminated array of pointers to them that exec needs.
class StringArray {
 public:
  void add(std::string text) { strings_.push_back(std::move(text)); }

  char* const* pointers() {
    pointers_.clear();
    for (auto& text : strings_) pointers_.push_back(text.data());
    pointers_.push_back(nullptr);
    return pointers_.data();
  }

 private:
  std::vector<std::string> strings_;
  std::vector<char*> pointers_;
};

using Variables = std::vector<std::pair<std::string, std::string>>;

/// The child's environment; `last` is set after everything else.
inline StringArray environment_of(const Command& command, const Variables& last) {
  StringArray result;
  std::set<std::string_view> taken;
  for (const auto& [name, value] : last) {
    require_variable_name(name);
    require_no_nul(value, "the value of an environment variable");
    if (taken.insert(name).second) result.add(name + "=" + value);
  }
  for (const auto& [name, value] : command.env) {
    require_variable_name(name);
    if (value) require_no_nul(*value, "the value of an environment variable");
    if (taken.insert(name).second && value) result.add(name + "=" + *value);
  }
  if (command.inherit_env && environ != nullptr) {
    for (char* const* variable = environ; *variable != nullptr; ++variable) {
      const std::string_view text = *variable;
      if (!taken.contains(text.substr(0, text.find('=')))) result.add(std::string(text));
    }
  }
  return result;
}

/// The name that a program receives as argv[0].
inline std::string own_name_of(const std::filesystem::path& program) {
  if (program.native() != own_program) return program.native();
  static const std::string& own = *new std::string([]() -> std::string {  // never destroyed
    char path[PATH_MAX];
    const ssize_t length = ::readlink(own_program, path, sizeof path);
    return length > 0 ? std::string(path, static_cast<std::size_t>(length)) : own_program;
  }());
  return own;
}

inline bool has_slash(const std::filesystem::path& program) { return program.native().find('/') != std::string::npos; }

/// Searches like execvp(3), but does not execute the file. Sets `error` and returns an empty path if there is none.
inline std::filesystem::path search_path(const std::filesystem::path& program, int& error) {
  const char* variable = std::getenv("PATH");
  std::string_view rest = variable != nullptr ? variable : "/bin:/usr/bin";
  error = ENOENT;
  for (;;) {
    const std::size_t colon = rest.find(':');
    const std::filesystem::path folder = rest.substr(0, colon);
    std::filesystem::path candidate = std::filesystem::absolute(folder.empty() ? "." : folder) / program;
    if (std::error_code ignored; std::filesystem::is_regular_file(candidate, ignored)) {
      if (::access(candidate.c_str(), X_OK) == 0) return candidate;
      error = EACCES;
    }
    if (colon == std::string_view::npos) return {};
    rest.remove_prefix(colon + 1);
  }
}

}}}  // namespace drover::v1::detail
