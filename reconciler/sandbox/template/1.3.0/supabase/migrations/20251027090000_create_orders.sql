create table public.orders (
  id bigint generated always as identity primary key,
  customer_id bigint not null references public.customers (id),
  total_cents integer not null check (total_cents >= 0)
);
create index orders_by_customer on public.orders (customer_id);
insert into public.orders (customer_id, total_cents) values (1, 1990), (1, 4500), (2, 990), (3, 12900);
