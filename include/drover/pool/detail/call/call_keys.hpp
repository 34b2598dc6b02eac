#pragma once

#include <cstddef>
#include <cstdint>
#include <functional>
#include <string>
#include <string_view>
#include <utility>

#include <drover/detail/intrusive_list.hpp>
#include <drover/detail/key_table.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The policy of PoolOptions::poison_after.
struct PoisonPolicy {
  unsigned after = 0;  ///< so many deaths in a row; 0: none poisons a key
  Duration span{};
};

/// Where one call of a broadcast goes.
struct BroadcastPlace {
  std::size_t slot = 0;
  std::uint64_t link = 0;
};

/// The record of a CallOptions::key.
struct CallKey {
  CallKey(std::string_view name, std::size_t hashed) : hash(hashed), key(name) {}

  std::uint64_t link = 0;  ///< the number of the link to which its calls go; 0: none yet
  unsigned deaths = 0;     ///< of workers under its calls, since one was answered
  std::uint64_t dead = 0;  ///< the link of the worker that died last under one of its calls
  Deadline poisoned_until{};
  std::size_t calls = 0;  ///< that wait or run

  const std::size_t hash;
  const std::string key;
  CallKey* chain = nullptr;                      // in its bucket of the table
  CallKey *previous = nullptr, *next = nullptr;  // while it has no calls: in the list of those
};

/// The keys of calls. Those without a call are kept too, up to a bound: the one used least recently is forgotten first.
///
/// Pure: no I/O, no clock. Each operation takes constant time on average, and no new key moves all others, see
/// KeyTable.
class CallKeys {
 public:
  static constexpr std::size_t usual_most = 65536;

  explicit CallKeys(PoisonPolicy poison, std::size_t most = usual_most) noexcept : most_(most), poison_(poison) {}
  CallKeys(const CallKeys&) = delete;
  CallKeys& operator=(const CallKeys&) = delete;
  ~CallKeys() {
    for (std::size_t bucket = 0; bucket < keys_.buckets(); ++bucket)
      for (CallKey* key = keys_.first_in(bucket); key != nullptr;) delete std::exchange(key, key->chain);
  }

  std::size_t size() const noexcept { return keys_.size(); }
  /// Those that have calls.
  std::size_t in_use() const noexcept { return in_use_; }
  unsigned poison_after() const noexcept { return poison_.after; }

  /// For another call. Throws std::bad_alloc; then nothing has changed.
  CallKey& begin_call(std::string_view name) {
    const std::size_t hash = Lookup::hash(name);
    CallKey* key = keys_.find(Lookup(), hash, name);
    if (key == nullptr) {
      key = new CallKey(name, hash);
      keys_.insert(*key);
    } else if (key->calls == 0) {
      idle_.erase(*key);
    }
    if (++key->calls == 1) ++in_use_;
    return *key;
  }
  void end_call(CallKey& key) noexcept {
    if (--key.calls != 0) return;
    --in_use_;
    idle_.push_back(key);
    if (keys_.size() <= most_) return;
    CallKey& oldest = idle_.front();
    idle_.erase(oldest);
    keys_.erase(oldest);
    delete &oldest;
  }

  /// A call of the key was answered.
  static void answered(CallKey& key) noexcept { key.deaths = 0; }
  /// The worker of that link has died under a call of the key, or under several.
  void died(CallKey& key, std::uint64_t link, Clock::time_point now) noexcept {
    if (poison_.after == 0 || std::exchange(key.dead, link) == link || ++key.deaths < poison_.after) return;
    key.deaths = 0;
    key.poisoned_until = deadline_after(now, poison_.span).value_or(Clock::time_point::max());
  }
  /// The death of that link's worker poisons the key, or has done so.
  bool death_poisons(const CallKey& key, std::uint64_t link, Clock::time_point now) const noexcept {
    if (poison_.after == 0) return false;
    return key.dead == link ? poisoned(key, now) : key.deaths + 1 >= poison_.after;
  }
  static bool poisoned(const CallKey& key, Clock::time_point now) noexcept {
    return key.poisoned_until && now < *key.poisoned_until;
  }

 private:
  struct Lookup {
    static std::size_t hash(std::string_view key) noexcept { return std::hash<std::string_view>{}(key); }
    static bool equal(std::string_view a, std::string_view b) noexcept { return a == b; }
  };

  const std::size_t most_;
  const PoisonPolicy poison_;
  KeyTable<CallKey, Lookup> keys_;  // which it owns
  IntrusiveList<CallKey> idle_;     // no call; the one used least recently first
  std::size_t in_use_ = 0;
};

}}}  // namespace drover::v1::detail
