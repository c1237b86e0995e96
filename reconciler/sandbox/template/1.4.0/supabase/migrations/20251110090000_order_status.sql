alter table public.orders add column status text not null default 'paid';
update public.orders set status = 'shipped' where id <= 2;
