#pragma once

#include <exception>
#include <memory>
#include <vector>

#include <drover/detail/context/spin.hpp>
#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_records.hpp>
#include <drover/pool/detail/call/call_scheduler.hpp>
#include <drover/pool/detail/call/completion_queue.hpp>
#include <drover/pool/detail/worker/data_link.hpp>
#include <drover/timeout.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Dispatcher;

/// Gives slots in workers to calls, as the CallScheduler decides, and takes them back. Ends calls that no worker may
/// run. Gathers frames for busy workers. Guarded by the dispatcher's mutex.
class CallSender {
 public:
  CallSender(Dispatcher& dispatcher, CallRecords& records, CallScheduler& scheduler, CompletionQueue& completions,
             Duration spin) noexcept
      : dispatcher_(dispatcher), records_(records), scheduler_(scheduler), completions_(completions), spin_(spin) {}
  CallSender(const CallSender&) = delete;
  CallSender& operator=(const CallSender&) = delete;

  /// Throws std::bad_alloc.
  void add_link(DataLink& link);
  void remove_link(DataLink& link) noexcept;

  /// Throws std::bad_alloc. CallLedger::send_failed() has to follow then.
  void send(std::shared_ptr<Call> call, DataLink& link);
  /// Sends calls that wait for any worker, as long as one can take them.
  void send_waiting() noexcept;
  /// The link may have room: sends calls that wait for it.
  void send_pinned(DataLink& link) noexcept;
  /// The call waits for a worker again, as the next one of its priority.
  void queue_again(const std::shared_ptr<Call>& call);
  /// Ends a call that no worker will get.
  void end_unsent(const std::shared_ptr<Call>& call, std::exception_ptr failure) noexcept;

  /// The routine of a call in a worker has begun.
  void began(Call& call) noexcept;
  /// The call has lost its slot. If one was sent ahead, its turn has come.
  void release_slot(Call& call) noexcept;

  /// Frames wait for flush_gathered().
  bool has_gathered() const noexcept { return !gathered_.empty(); }
  void flush_gathered();
  /// Frames of a stream wait in the link. See Dispatcher::flush_soon().
  void flush_soon(DataLink& link) noexcept;

 private:
  void carry_out(CallScheduler::Turn turn) noexcept;
  void watch_calls_ahead() noexcept {
    if (scheduler_.may_find_another()) records_.timer.watch_calls_ahead();
  }
  void poll_for_results() noexcept;
  void start_run(Call& call) noexcept;

  Dispatcher& dispatcher_;
  CallRecords& records_;
  CallScheduler& scheduler_;
  CompletionQueue& completions_;
  Spin spin_;
  std::vector<DataLink*> gathered_;  // they have frames that wait for flush_gathered()
};

}}}  // namespace drover::v1::detail
