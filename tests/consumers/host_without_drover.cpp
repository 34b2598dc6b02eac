void host_uses_drover();

void host_uses_drover() {}
