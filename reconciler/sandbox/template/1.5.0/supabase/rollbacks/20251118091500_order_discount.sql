alter table public.orders drop column discount_cents;
