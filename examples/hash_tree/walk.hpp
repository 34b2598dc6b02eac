#pragma once

#include <algorithm>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <functional>
#include <iterator>
#include <optional>
#include <string>
#include <system_error>
#include <utility>
#include <vector>

/// A regular file that the walk has found.
struct File {
  std::string path;
  std::uint64_t size{};
};

/// A range of the regular files below a directory, in the byte order of their paths. It is read once, and finds each
/// file when it is reached. It does not follow symbolic links. It keeps only the names in the directories that lead to
/// the current file.
class TreeWalk {
 public:
  using OnError = std::function<void(const std::string& path, const std::string& what)>;

  TreeWalk(std::string root, OnError on_error) : on_error_(std::move(on_error)) {
    if (!root.ends_with('/')) root += '/';
    enter(std::move(root));
  }

  class Iterator {
   public:
    using value_type = File;
    using difference_type = std::ptrdiff_t;

    Iterator() = default;
    explicit Iterator(TreeWalk& walk) : walk_(&walk) { ++*this; }

    const File& operator*() const { return *walk_->file_; }
    Iterator& operator++() {
      walk_->file_ = walk_->next();
      return *this;
    }
    void operator++(int) { ++*this; }
    bool operator==(std::default_sentinel_t) const { return !walk_->file_; }

   private:
    TreeWalk* walk_ = nullptr;
  };

  Iterator begin() { return Iterator(*this); }
  static std::default_sentinel_t end() { return {}; }

 private:
  std::optional<File> next() {
    while (!levels_.empty()) {
      Level& level = levels_.back();
      if (level.next == level.names.size()) {
        levels_.pop_back();
        continue;
      }
      std::string path = level.path + level.names[level.next++];
      if (path.ends_with('/')) {
        enter(std::move(path));
        continue;
      }
      std::error_code error;
      const std::uint64_t size = std::filesystem::file_size(path, error);
      if (!error) return File{std::move(path), size};
      on_error_(path, error.message());
    }
    return std::nullopt;
  }

  struct Level {
    std::string path;
    std::vector<std::string> names;
    std::size_t next = 0;
  };

  void enter(std::string path) {
    Level level;
    std::error_code error;
    for (auto i = std::filesystem::directory_iterator(path, error);
         !error && i != std::filesystem::directory_iterator(); i.increment(error)) {
      std::error_code removed;  // an entry that was removed meanwhile has none of these types
      if (i->is_symlink(removed)) continue;
      // The slash sorts a directory where the paths below it belong: after "a.txt", before "a0".
      if (i->is_directory(removed))
        level.names.push_back(i->path().filename().native() + '/');
      else if (i->is_regular_file(removed))
        level.names.push_back(i->path().filename().native());
    }
    if (error) on_error_(path, error.message());
    std::sort(level.names.begin(), level.names.end());
    level.path = std::move(path);
    levels_.push_back(std::move(level));
  }

  OnError on_error_;
  std::vector<Level> levels_;
  std::optional<File> file_;  // the current one
};

inline std::uint64_t count_files(const std::string& directory) {
  std::uint64_t count = 0;
  TreeWalk walk(directory, [](const std::string&, const std::string&) {});
  for (auto file = walk.begin(); file != walk.end(); ++file) ++count;
  return count;
}
