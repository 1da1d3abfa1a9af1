mod count;
mod entry;
mod event;
mod maps;
mod packet;
mod pipeline;
mod roce;
mod uplink;
