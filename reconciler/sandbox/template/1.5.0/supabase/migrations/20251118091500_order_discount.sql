alter table public.orders add column discount_cents integer;
update public.orders set discount_cents = total_cents / 10 where status = 'paid';
