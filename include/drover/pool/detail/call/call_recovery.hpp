#pragma once

#include <cstdint>
#include <memory>

#include <drover/pool/detail/call/call.hpp>
#include <drover/pool/detail/call/call_admission.hpp>
#include <drover/pool/detail/call/call_records.hpp>
#include <drover/pool/detail/call/call_scheduler.hpp>
#include <drover/pool/detail/call/call_sender.hpp>
#include <drover/pool/detail/call/state.hpp>
#include <drover/pool/detail/worker/data_link.hpp>

namespace drover { inline namespace v1 { namespace detail {

class Dispatcher;

/// What becomes of the calls of a worker that has not answered them: it has exited, drains, or gives them back. Those
/// that are to be made again rest, or go to the front of the queue. The functions of Dispatcher with the same names say
/// what these do. Guarded by the dispatcher's mutex.
class CallRecovery {
 public:
  CallRecovery(Dispatcher& dispatcher, CallRecords& records, CallScheduler& scheduler, CallSender& sender,
               const CallAdmission& admission) noexcept
      : dispatcher_(dispatcher), records_(records), scheduler_(scheduler), sender_(sender), admission_(admission) {}
  CallRecovery(const CallRecovery&) = delete;
  CallRecovery& operator=(const CallRecovery&) = delete;

  bool end_with_worker(const std::shared_ptr<Call>& call);
  bool end_ahead(Call& call, bool has_not_begun);
  void take_back(DataLink& link, std::uint64_t last_begun);
  bool take_back_recalled(DataLink& link, std::uint64_t id);

  /// The rest of the call is over.
  void end_rest(Call& call);

 private:
  bool may_retry(const Call& call) const noexcept;
  void return_to_queue(const std::shared_ptr<Call>& call, CallEvent event);
  void queue_again(const std::shared_ptr<Call>& call);

  Dispatcher& dispatcher_;
  CallRecords& records_;
  CallScheduler& scheduler_;
  CallSender& sender_;
  const CallAdmission& admission_;
};

}}}  // namespace drover::v1::detail
