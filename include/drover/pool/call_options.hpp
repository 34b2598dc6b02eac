#pragma once

#include <drover/detail/platform.hpp>

#include <chrono>
#include <cstddef>
#include <set>
#include <stdexcept>
#include <string>

#include <drover/detail/brace_safe.hpp>
#include <drover/pool/retry.hpp>
#include <drover/timeout.hpp>
#include <drover/wire/protocol.hpp>

namespace drover { inline namespace v1 {

/// Options of one call.
///
/// *Errors:* the call fails with std::invalid_argument for a negative time, no attempts, a priority over 3, a
/// key of more than 256 bytes and a context of more than 4 KiB.
struct CallOptions {
  /// Covers waiting for a free worker, sending and running. When it has passed, the call fails with
  /// Errc::deadline_exceeded and is cancelled in the worker. nullopt: no bound of its own.
  Timeout deadline{};
  /// How long the routine may run, from the moment at which it begins. Then the call fails with
  /// Errc::deadline_exceeded and is cancelled in the worker, as at its deadline. Each attempt has it anew. While the
  /// call waits in its worker for a plain routine to end, which it may with a max_in_flight of more than 1, only its
  /// deadline counts. nullopt: no bound.
  Timeout run_for{};
  /// Kills the worker if the routine has not returned this long after the deadline or the cancellation. A pool replaces
  /// the worker at once and does not count it as a crash. nullopt: never.
  Timeout kill_after{};
  /// If a worker exits under the call, or is killed or can't be reached, the call is made again by another worker:
  /// `attempts` times in all, each after a rest of `backoff`. So its routine may run more than once, which it must
  /// bear. A call that was answered is never repeated, whatever the answer; nor is one whose deadline would pass
  /// before its next attempt, one that was cancelled, or one whose pool is being stopped. The error of the last attempt
  /// is thrown. Arguments that are borrowed or moved in are kept until then. See this_call::attempt().
  Retry retry{};
  /// Calls with the same key, which is any text of at most 256 bytes, go to the same worker of a pool as long as it
  /// lives and takes calls, and wait for it. New keys are spread over the workers. After
  /// PoolOptions::poison_after workers have died under calls of a key, its calls fail with Errc::poisoned for a while.
  /// A pool knows the 65,536 keys that were used last. Empty: any worker.
  detail::BraceSafe<std::string> key{};
  /// 0 to 3. Among the calls that wait for a worker, one of a higher priority is next. After 16 calls that have
  /// overtaken one of a lower priority, it is that one's turn.
  unsigned priority = 1;
  /// Whether the call waits although PoolOptions::max_queued calls wait already. Then its caller bounds the memory.
  WhenFull when_full = WhenFull::refuse;
  /// Only workers that have all of these tags get the call.
  detail::BraceSafe<std::set<std::string>> tags{};
  /// In a routine: the call ends by the deadline of the call that the routine runs for, or by `deadline` if that is
  /// earlier. See this_call::deadline().
  bool inherit_deadline = true;
  /// A short text that drover only passes on, such as a traceparent: this_call::context(). At most 4 KiB. Calls that
  /// the routine makes do not inherit it. It counts towards WorkerOptions::max_message_size.
  detail::BraceSafe<std::string> context{};
};

namespace detail {

/// Bytes of CallOptions::key, at most.
inline constexpr std::size_t longest_key = 256;

inline void check(const CallOptions& options) {
  require_not_negative(options.deadline, "CallOptions::deadline");
  require_not_negative(options.kill_after, "CallOptions::kill_after");
  require_not_negative(options.run_for, "CallOptions::run_for");
  require_not_negative(options.retry.backoff, "Retry::backoff");
  if (options.retry.attempts == 0)
    throw std::invalid_argument("Retry::attempts must be at least 1: the first attempt counts");
  if (options.key.value().size() > longest_key)
    throw std::invalid_argument("CallOptions::key has " + std::to_string(options.key.value().size()) +
                                " bytes, at most " + std::to_string(longest_key) + " are allowed; use a hash of it");
  if (options.priority >= 4)
    throw std::invalid_argument("CallOptions::priority is " + std::to_string(options.priority) +
                                "; it must be from 0, the lowest, to 3");
  if (options.context.value().size() > longest_context)
    throw std::invalid_argument("CallOptions::context has " + std::to_string(options.context.value().size()) +
                                " bytes, at most " + std::to_string(longest_context) +
                                " are allowed; pass more as an argument");
}

}  // namespace detail
}}  // namespace drover::v1
