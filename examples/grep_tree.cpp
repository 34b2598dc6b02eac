// grep_tree [--jobs N] [--seconds S] PATTERN FOLDER: prints what `grep -rnE PATTERN FOLDER` prints, in the order in
// which workers find it. Matches are streamed: no file's matches are kept in memory. A pattern that takes for ever on
// some file costs that file only: its worker is killed and replaced.
#include <CLI/CLI.hpp>
#include <algorithm>
#include <cerrno>
#include <chrono>
#include <clocale>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <cwchar>
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
  bool binary = false;  // some of them were not sent, since they are no text
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

/// The line, which has no NULs, is text in the locale.
bool is_text(const std::string& line) {
  if (MB_CUR_MAX == 1) return true;
  const char* at = line.c_str();
  std::mbstate_t state{};
  return std::mbsrtowcs(nullptr, &at, 0, &state) != static_cast<std::size_t>(-1);
}

/// As grep does it. From the first block with a NUL on, the file is binary: its lines end at NULs, too, and the first
/// match is reported without its text.
Found grep(const std::string& pattern, const fs::path& path, drover::Sink<Match>& out) {
  constexpr std::size_t block = 96 * 1024;
  const Pattern compiled(pattern);
  std::ifstream file(path, std::ios::binary);
  if (!file) throw std::system_error(errno, std::system_category());
  Found found;
  Match match;
  bool binary = false;
  std::string text;  // the beginning of a line, and a block
  while (file) {
    const std::size_t kept = text.size();
    text.resize(kept + block);
    file.read(text.data() + kept, static_cast<std::streamsize>(block));
    if (file.bad()) throw std::system_error(errno, std::system_category());
    text.resize(kept + static_cast<std::size_t>(file.gcount()));
    binary = binary || text.find('\0', kept) != std::string::npos;
    if (binary) std::replace(text.begin(), text.end(), '\0', '\n');
    std::size_t begin = 0;
    for (std::size_t end = text.find('\n', kept);; end = text.find('\n', begin)) {
      if (end == std::string::npos) {
        if (file || begin >= text.size()) break;
        end = text.size();  // the last line may have no end
      }
      match.text.assign(text, begin, end - begin);
      begin = end + 1;
      ++match.line;
      if (!compiled.matches(match.text)) continue;
      ++found.lines;
      if (!binary && is_text(match.text)) {
        out.write(match);  // waits while the parent prints
        continue;
      }
      found.binary = true;
      if (binary) return found;
    }
    text.erase(0, begin);
  }
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
    if (found.binary) std::cerr << "grep_tree: " << file << ": binary file matches\n";
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
  std::setlocale(LC_ALL, "");       // says what a character is, in the workers as well
  std::setlocale(LC_NUMERIC, "C");  // --seconds 0.5
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
