alter table public.orders drop column status;
