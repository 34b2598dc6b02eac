#include <atomic>
#include <chrono>
#include <cstddef>
#include <cstdint>
#include <cstdlib>
#include <gtest/gtest.h>
#include <memory>
#include <new>
#include <utility>

#include <asio/co_spawn.hpp>
#include <asio/io_context.hpp>

#include <drover/resource_pool.hpp>

#include "support/resource_pool_driver.hpp"
#include "support/resource_pool_run.hpp"

// Counts the allocated bytes, plus 16 bytes a block for the allocator itself. The buckets are not counted.
namespace {
std::atomic<std::int64_t> allocated{0};
constexpr std::size_t block_overhead = 16;

void* counted(std::size_t size) {
  auto* const block = static_cast<std::size_t*>(std::malloc(size + block_overhead));
  if (block == nullptr) throw std::bad_alloc();
  *block = size;
  allocated += static_cast<std::int64_t>(size + block_overhead);
  return reinterpret_cast<char*>(block) + block_overhead;
}

void uncounted(void* memory) noexcept {
  if (memory == nullptr) return;
  auto* const block = reinterpret_cast<std::size_t*>(static_cast<char*>(memory) - block_overhead);
  allocated -= static_cast<std::int64_t>(*block + block_overhead);
  std::free(block);
}
}  // namespace

void* operator new(std::size_t size) { return counted(size); }
void* operator new[](std::size_t size) { return counted(size); }
void operator delete(void* memory) noexcept { uncounted(memory); }
void operator delete[](void* memory) noexcept { uncounted(memory); }
void operator delete(void* memory, std::size_t) noexcept { uncounted(memory); }
void operator delete[](void* memory, std::size_t) noexcept { uncounted(memory); }

namespace {

using namespace std::chrono_literals;
using Key = std::uint64_t;
using Value = std::uint64_t;

TEST(ResourcePoolScale, IdleKeyTakesAtMost140Bytes) {
  constexpr std::uint64_t count = 1'000'000;
  asio::io_context context;
  drover::ResourcePool<Key, Value> pool(context.get_executor(), [](Key key) { return key; }, {.ttl = 1h});
  const std::int64_t before = allocated;
  pool_test::run(context, [&]() -> asio::awaitable<void> {
    for (Key key = 0; key < count; ++key) auto lease = co_await pool.acquire(key);
  });
  constexpr double buckets = 1.5 * sizeof(void*);
  const auto each =
      static_cast<double>(allocated - before) / static_cast<double>(count) + buckets - sizeof(Key) - sizeof(Value);
  RecordProperty("bytes_per_idle_key", std::to_string(each));
  std::cout << each << " bytes for each idle key beside key and value\n";
  EXPECT_LE(each, 140);
  EXPECT_EQ(pool.stats().pending_cleanup, count);
  for (Key key = 0; key < count; key += 1001) EXPECT_TRUE(pool.try_acquire(key));
  pool_test::run(context, [&]() -> asio::awaitable<void> { co_await pool.clear(); });
  EXPECT_EQ(pool.stats().total_entries, 0u);
}

// The fake timer aborts if it is armed while it is armed already.
TEST(ResourcePoolScale, ManyIdleKeysNeedOneTimer) {
  constexpr int count = 200'000;
  using Impl = drover::detail::resource_pool::Impl<int, int, std::hash<int>, std::equal_to<int>, pool_model::FakeTime>;
  struct Lease {
    Lease() = default;
    explicit Lease(Impl::Reference r) : reference(std::move(r)) {}
    Impl::Reference reference;
  };
  asio::io_context context;
  pool_model::FakeTime::current = {};
  auto factory = [](int key) { return key; };
  Impl::Callbacks callbacks;
  callbacks.factory =
      std::make_unique<drover::detail::resource_pool::TypedFactory<int, int, decltype(factory)>>(factory);
  const auto impl = std::make_shared<Impl>(
      context.get_executor(), drover::detail::resource_pool::Rules{1h, std::nullopt, false, 8}, std::move(callbacks));
  pool_test::run(context, [&]() -> asio::awaitable<void> {
    for (int key = 0; key < count; ++key) {
      pool_model::FakeTime::current += 1us;
      auto lease = co_await impl->acquire<Lease>(key);
    }
  });
  EXPECT_EQ(impl->counts().pending, static_cast<std::size_t>(count));
  // The timer fires once for the first key that is due, and is armed for the next one that is left.
  pool_model::FakeTime::current = pool_model::Time{} + 1h + 100'000us;
  EXPECT_TRUE(pool_model::FakeTime::Timer::only->fire_if_due());
  context.restart();
  context.run();
  EXPECT_EQ(impl->counts().pending, static_cast<std::size_t>(count) - 100'000);
  pool_model::FakeTime::current += 1us;
  EXPECT_TRUE(pool_model::FakeTime::Timer::only->fire_if_due());
  EXPECT_FALSE(pool_model::FakeTime::Timer::only->fire_if_due());
  impl->close();
}

}  // namespace
