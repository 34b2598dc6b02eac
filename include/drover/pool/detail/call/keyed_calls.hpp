#pragma once

#include <exception>
#include <string_view>
#include <utility>

#include <drover/detail/report_text.hpp>
#include <drover/error.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_keys.hpp>
#include <drover/pool/detail/call/state.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

/// The calls that have a CallOptions::key: keeps what is known of their keys. Other calls are left as they are. Guarded
/// by the dispatcher's mutex.
class KeyedCalls {
 public:
  explicit KeyedCalls(PoisonPolicy poison) noexcept : keys_(poison) {}

  const CallKeys& keys() const noexcept { return keys_; }

  /// A new call has that key, if it is not empty. Throws std::bad_alloc; then nothing has changed.
  void begin(Call& call, std::string_view key) {
    if (!key.empty()) call.key = &keys_.begin_call(key);
  }
  /// The call goes to that worker. So do the next ones of its key.
  static void sent(Call& call, const DataLink& link) noexcept {
    if (call.key != nullptr) call.key->link = link.number;
  }
  /// The worker of the call has died, which may poison its key. The call will be made again.
  void died(Call& call) noexcept {
    if (call.key != nullptr) keys_.died(*call.key, call.link->number, Clock::now());
  }
  /// The call ends with that event.
  void ended(Call& call, CallEvent event) noexcept {
    if (call.key == nullptr) return;
    CallKey& key = *std::exchange(call.key, nullptr);
    if (event == CallEvent::answered) CallKeys::answered(key);
    if (event == CallEvent::worker_ended) keys_.died(key, call.link->number, Clock::now());
    keys_.end_call(key);
  }

  /// The death of the call's worker poisons its key, or has done so.
  bool death_poisons(const Call& call) const noexcept {
    return call.key != nullptr && keys_.death_poisons(*call.key, call.link->number, Clock::now());
  }
  static bool poisoned(const Call& call) noexcept {
    return call.key != nullptr && CallKeys::poisoned(*call.key, Clock::now());
  }
  /// The failure of a call whose key is poisoned.
  std::exception_ptr failure(const Call& call) const noexcept {
    return failure_of([&] {
      return std::make_exception_ptr(
          Error(Errc::poisoned, counted(keys_.poison_after(), "worker") +
                                    " died in a row under calls with the key of the call of '" + call.routine() +
                                    "' (CallOptions::key, PoolOptions::poison_after)"));
    });
  }

 private:
  CallKeys keys_;
};

}}}  // namespace drover::v1::detail
