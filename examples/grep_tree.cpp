// grep_tree [--jobs N] [--seconds S] PATTERN FOLDER: prints what `grep -rnE PATTERN FOLDER` prints, in the order in
// which workers find it. Matches are streamed: no file's matches are kept in memory. A pattern that takes for ever on
// some file costs that file only: its worker is killed and replaced.
#include <CLI/CLI.hpp>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <exception>
#include <filesystem>
#include <fstream>
#include <iostream>
#include <memory>
#include <optional>
#include <regex.h>
#include <stdexcept>
#include <string>
#include <system_error>
#include <thread>

#include <asio/experimental/awaitable_operators.hpp>

#include <drover/drover.hpp>

namespace {

namespace fs = std::filesystem;
using namespace std::chrono_literals;
using namespace asio::experimental::awaitable_operators;

struct Match {
  std::uint64_t line = 0;
  std::string text;
};

struct Found {
  std::uint64_t lines = 0;
  bool binary = false;
};

// ---- in a worker ----------------------------------------------------------------------------------------------------

class Pattern {
 public:
  explicit Pattern(const std::string& text) {
    if (const int error = ::regcomp(&compiled_, text.c_str(), REG_EXTENDED | REG_NOSUB); error != 0) {
      char why[256];
      ::regerror(error, &compiled_, why, sizeof why);
      throw std::invalid_argument(why);
    }
  }
  Pattern(const Pattern&) = delete;
  Pattern& operator=(const Pattern&) = delete;
  ~Pattern() { ::regfree(&compiled_); }

  bool matches(const std::string& line) const { return ::regexec(&compiled_, line.c_str(), 0, nullptr, 0) == 0; }

 private:
  regex_t compiled_;
};

/// As grep does: a NUL in the first block.
bool is_binary(std::istream& file) {
  std::string block(32 * 1024, '\0');
  file.read(block.data(), static_cast<std::streamsize>(block.size()));
  block.resize(static_cast<std::size_t>(file.gcount()));
  file.clear();
  file.seekg(0);
  return block.find('\0') != std::string::npos;
}

Found grep(const std::string& pattern, const fs::path& path, drover::Sink<Match>& out) {
  const Pattern compiled(pattern);
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::system_error(errno, std::system_category());
  Found found{.binary = is_binary(file)};
  Match match;
  while (std::getline(file, match.text)) {
    ++match.line;
    if (!compiled.matches(match.text)) continue;
    ++found.lines;
    if (found.binary) break;  // it is not printed
    out.write(match);         // waits while the parent prints
  }
  if (file.bad()) throw std::system_error(errno, std::system_category());
  return found;
}

// ---- in the parent --------------------------------------------------------------------------------------------------

struct Search {
  std::string pattern;
  fs::path folder = ".";
  unsigned jobs = std::thread::hardware_concurrency();
  double seconds = 10;

  fs::recursive_directory_iterator next{};
  bool matched = false, failed = false;

  void complain(const std::string& file, const std::string& what) {
    std::cerr << "grep_tree: " << file << ": " << what << '\n';
    failed = true;
  }
  std::optional<std::string> next_file() {
    while (next != fs::recursive_directory_iterator()) {
      std::error_code error;
      const fs::directory_entry entry = *next;
      if (entry.is_directory(error) && !entry.is_symlink(error)) {
        const fs::directory_iterator opened(entry.path(), error);
        if (error) {
          complain(entry.path().string(), error.message());
          next.disable_recursion_pending();
        }
      }
      next.increment(error);
      if (error) complain(entry.path().string(), error.message());
      if (entry.is_regular_file(error) && !entry.is_symlink(error)) return entry.path().string();
    }
    return std::nullopt;
  }
};

asio::awaitable<void> search_file(Search& search, drover::WorkerPool& pool, std::string file) {
  const auto bound = std::chrono::duration_cast<drover::Duration>(std::chrono::duration<double>(search.seconds));
  const drover::CallOptions options{.run_for = bound, .kill_after = 100ms};
  try {
    auto matches = pool.stream<Found, Match>(options, "grep", search.pattern, file);
    for (;;) {
      const std::optional<Match> match = co_await matches.next();
      if (!match) break;
      std::cout << file << ':' << match->line << ':' << match->text << '\n';
    }
    const Found found = co_await matches.result();
    if (found.lines != 0) search.matched = true;
    if (found.lines != 0 && found.binary) std::cerr << "grep_tree: " << file << ": binary file matches\n";
  } catch (const drover::RemoteError& error) {
    search.complain(file, error.what());
  } catch (const drover::Error& error) {
    search.complain(file, error.what());
  }
}

/// One of several at a time. Each takes the next file.
asio::awaitable<void> search_files(Search& search, drover::WorkerPool& pool) {
  while (const std::optional<std::string> file = search.next_file()) co_await search_file(search, pool, *file);
}

asio::awaitable<void> search_all(Search& search, drover::WorkerPool& pool) {
  // Two for each worker, so that none waits for the parent.
  asio::awaitable<void> all = search_files(search, pool);
  for (unsigned i = 1; i < 2 * search.jobs; ++i) all = std::move(all) && search_files(search, pool);
  co_await std::move(all);
}

}  // namespace

int main(int argc, char** argv) {
  drover::Routines routines;
  routines.add("grep", grep);
  if (drover::in_worker()) return drover::serve(routines);

  Search search;
  CLI::App app("Prints the lines of all files of a folder that match an extended regular expression.");
  app.add_option("pattern", search.pattern)->required();
  app.add_option("folder", search.folder)->check(CLI::ExistingDirectory)->capture_default_str();
  app.add_option("--jobs", search.jobs, "worker processes")->check(CLI::Range(1, 256))->capture_default_str();
  app.add_option("--seconds", search.seconds, "how long one file may take")
      ->check(CLI::PositiveNumber)
      ->capture_default_str();
  try {
    app.parse(argc, argv);
    const Pattern checked(search.pattern);
    search.next = fs::recursive_directory_iterator(search.folder);
  } catch (const CLI::ParseError& error) {
    return app.exit(error) == 0 ? 0 : 2;
  } catch (const std::exception& error) {
    std::cerr << "grep_tree: " << error.what() << '\n';
    return 2;
  }

  std::ios::sync_with_stdio(false);
  drover::PoolOptions options;
  options.size = search.jobs;
  const int code = drover::run_main(drover::with_pool(
      options, [&](drover::WorkerPool& pool) -> asio::awaitable<void> { co_await search_all(search, pool); }));
  if (code != 0) return code;
  return search.failed ? 2 : search.matched ? 0 : 1;
}
