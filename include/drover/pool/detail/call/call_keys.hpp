#pragma once

#include <cstddef>
#include <cstdint>
#include <list>
#include <memory>
#include <string>
#include <string_view>
#include <unordered_map>
#include <utility>

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
  std::uint64_t link = 0;  ///< the number of the link to which its calls go; 0: none yet
  unsigned deaths = 0;     ///< of workers under its calls, since one was answered
  std::uint64_t dead = 0;  ///< the link of the worker that died last under one of its calls
  Deadline poisoned_until{};
  std::size_t calls = 0;  ///< that wait or run
  std::list<CallKey*>::iterator place{};
  const std::string* name = nullptr;
};

/// The keys of calls. Those without a call are kept too, up to a bound: the one used least recently is forgotten first.
///
/// Pure: no I/O, no clock. Each operation takes constant time on average.
class CallKeys {
 public:
  static constexpr std::size_t usual_most = 65536;

  explicit CallKeys(PoisonPolicy poison, std::size_t most = usual_most) noexcept : most_(most), poison_(poison) {}

  std::size_t size() const noexcept { return keys_.size(); }
  /// Those that have calls.
  std::size_t in_use() const noexcept { return busy_.size(); }
  unsigned poison_after() const noexcept { return poison_.after; }

  /// For another call. Throws std::bad_alloc; then nothing has changed.
  CallKey& begin_call(std::string_view name) {
    auto found = keys_.find(name);
    if (found == keys_.end()) {
      found = keys_.emplace(std::string(name), CallKey()).first;
      found->second.name = &found->first;
      try {
        found->second.place = idle_.insert(idle_.end(), &found->second);
      } catch (...) {
        keys_.erase(found);
        throw;
      }
    }
    CallKey& key = found->second;
    // It keeps its place in a list, so that no memory is needed when it becomes idle again.
    if (++key.calls == 1) busy_.splice(busy_.end(), idle_, key.place);
    return key;
  }
  void end_call(CallKey& key) noexcept {
    if (--key.calls != 0) return;
    idle_.splice(idle_.end(), busy_, key.place);
    if (keys_.size() <= most_) return;
    const std::string* const oldest = idle_.front()->name;
    idle_.pop_front();
    keys_.erase(keys_.find(*oldest));
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
  struct Hash : std::hash<std::string_view> {
    using is_transparent = void;
  };

  const std::size_t most_;
  const PoisonPolicy poison_;
  std::unordered_map<std::string, CallKey, Hash, std::equal_to<>> keys_;
  std::list<CallKey*> idle_;  // no call; the one used least recently first
  std::list<CallKey*> busy_;
};

}}}  // namespace drover::v1::detail
