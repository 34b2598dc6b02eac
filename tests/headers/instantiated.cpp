// A consumer's code that instantiates the templates of drover: they are free of the consumer's warnings, too.
#include <array>
#include <bitset>
#include <chrono>
#include <complex>
#include <cstddef>
#include <cstdint>
#include <filesystem>
#include <map>
#include <memory>
#include <optional>
#include <set>
#include <span>
#include <stop_token>
#include <string>
#include <string_view>
#include <system_error>
#include <tuple>
#include <unordered_map>
#include <utility>
#include <variant>
#include <vector>

#include <drover/drover.hpp>

namespace consumer {

struct Page {
  std::string title{};
  std::vector<std::string> links{};
  std::optional<float> score{};
};
inline auto drover_fields(Page& page) { return std::tie(page.title, page.links, page.score); }

struct Flags {  // aggregates
  unsigned low : 3;
  bool on : 1;
};
struct Entry {
  std::string name{};
  double weights[2]{};
};

enum class Colour : std::uint8_t { red, green };

using Everything =
    std::tuple<bool, char, signed char, std::int16_t, std::uint32_t, std::int64_t, std::size_t, float, double,
               long double, Colour, std::string, std::filesystem::path, std::vector<std::byte>, std::vector<int>,
               std::vector<bool>, std::array<float, 3>, std::set<std::string>, std::map<int, Page>,
               std::unordered_map<std::string, std::vector<double>>, std::variant<int, std::string>,
               std::unique_ptr<int>, std::pair<int, Page>, std::chrono::milliseconds, std::chrono::duration<double>,
               std::chrono::system_clock::time_point, std::chrono::year_month_day,
               std::chrono::hh_mm_ss<std::chrono::seconds>, std::shared_ptr<Entry>, std::error_code,
               std::complex<float>, std::bitset<9>, Flags>;

inline constexpr drover::Routine<Entry(std::string, const std::vector<std::byte>&, std::uint8_t)> typed{"typed"};

drover::Routines routines();
asio::awaitable<void> caller(drover::WorkerPool& pool);
asio::awaitable<void> processes();
asio::awaitable<void> leases();

drover::Routines routines() {
  drover::Routines routines;
  routines.add("everything", [](Everything all) { return all; });
  routines.add("nothing", [] {});
  routines.add("count", [](std::stop_token stop, std::uint64_t limit) { return stop.stop_requested() ? 0 : limit; });
  routines.add("later", [](std::string text) -> asio::awaitable<std::string> { co_return text; });
  routines.add(typed, [](std::string_view name, std::span<const std::byte> bytes, std::uint8_t) {
    return Entry{.name = std::string(name), .weights = {static_cast<double>(bytes.size()), 0}};
  });
  return routines;
}

asio::awaitable<void> caller(drover::WorkerPool& pool) {
  const Everything all = co_await pool.call<Everything>("everything", Everything());
  const drover::CallOptions options{.deadline = std::chrono::seconds(2), .tags = {"fast"}};
  co_await pool.call<void>(options, "nothing");
  const auto count = co_await pool.call<std::uint64_t>("count", std::get<std::size_t>(all));
  const std::string text = co_await pool.call<std::string>("later", std::to_string(count));
  const std::vector<std::byte> bytes;
  const Entry entry = co_await pool.call(typed, "name", drover::borrow(bytes), 7);
  const Entry other = co_await pool.call(options, typed, text + entry.name, bytes, std::uint8_t{7});
  (void)other;

  drover::LocalWorker worker(co_await asio::this_coro::executor);
  co_await worker.start();
  co_await worker.call<void>("nothing");
  co_await worker.stop();
}

asio::awaitable<void> processes() {
  const drover::Command command{.program = "true"};
  drover::Process process = drover::Process::spawn(command);
  const drover::ReapReport report = co_await process.reap(drover::ReapPlan());
  (void)report;
}

asio::awaitable<void> leases() {
  using Pages = drover::ResourcePool<std::string, Page>;
  const Pages::Options options{.ttl = std::chrono::seconds(1),
                               .finalizer = [](Page&) -> asio::awaitable<void> { co_return; }};
  const asio::any_io_executor executor = co_await asio::this_coro::executor;
  Pages pages(executor, [](const std::string& name) { return Page{.title = name}; }, options);
  Pages::Lease page = co_await pages.acquire("front");
  co_await page.release();
  co_await pages.clear();
}

}  // namespace consumer

int main() {
  if (drover::in_worker()) return drover::serve(consumer::routines());
  drover::run(consumer::processes());
  drover::run(consumer::leases());
  return drover::run_main(drover::with_pool({.size = 1}, &consumer::caller));
}
