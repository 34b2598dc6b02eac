# cmake -DFOLDER=... -DHEADERS=a;b -P: fails unless each header includes drover/detail/platform.hpp before anything else.
foreach(header IN LISTS HEADERS)
  file(STRINGS ${FOLDER}/${header} first REGEX "^#include" LIMIT_COUNT 1)
  if(NOT first STREQUAL "#include <drover/detail/platform.hpp>")
    message(SEND_ERROR "${header} begins with ${first}, not with <drover/detail/platform.hpp>")
  endif()
endforeach()
