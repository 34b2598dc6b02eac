#pragma once

#include <string>

#include <drover/detail/report_text.hpp>
#include <drover/pool/stats.hpp>

namespace drover { inline namespace v1 {
namespace detail {

inline std::string quantiles_text(const Histogram& histogram) {
  return duration_text(histogram.quantile(0.5)) + " (p50), " + duration_text(histogram.quantile(0.99)) + " (p99)";
}

}  // namespace detail

DROVER_INLINE std::string PoolStats::to_string() const {
  using detail::counted;
  std::string text = counted(workers, "worker") + ", " + std::to_string(ready) + " ready; " +
                     counted(in_flight, "call") + " in flight, " + std::to_string(queued) + " queued, " +
                     std::to_string(calls) + " so far";
  if (queue_time.count() != 0) text += "; waited " + detail::quantiles_text(queue_time);
  if (run_time.count() != 0) text += "; ran " + detail::quantiles_text(run_time);
  return text + "; " + counted(crashes, "crash", "es") + ", " + counted(restarts, "restart");
}

}}  // namespace drover::v1
