-- The demo data: five years of an invented shop that sells things for house and garden.
--
-- Every value is computed from the row's own number by SHA-256 and integer arithmetic, so that the data is the same on
-- every machine and every PostgreSQL from 14 on. Keys, foreign keys and indexes follow the rows: checking them once
-- over all rows is several times faster than row by row.
--
-- Runs inside the transaction of install_demo_data(), which drops an older version first and marks the schema last.

create schema demo;
set local search_path = demo;
set local jit = off;  -- compiling takes longer than running
set local work_mem = '32MB';

-- The n-th throw (0 to 9) of the dice that belong to a row: evenly spread over 0 <= throw < 1.
create function dice(hash bytea, n integer) returns double precision
    language sql immutable strict parallel safe
    as $$ select (get_byte(hash, 3 * n) * 65536 + get_byte(hash, 3 * n + 1) * 256 + get_byte(hash, 3 * n + 2)) / 16777216.0::double precision $$;

create function hash(kind text, a bigint, b bigint) returns bytea
    language sql immutable strict parallel safe
    as $$ select sha256((kind || ' ' || a::text || ' ' || b::text)::bytea) $$;


-- Where it is sold ----------------------------------------------------------------------------------------------------

create table region (
    region_id    smallint not null,
    name         text     not null,
    promise_days smallint not null,  -- a delivery is promised within so many days
    late_percent smallint not null   -- how often it is late in a quiet month
);

insert into region (region_id, name, promise_days, late_percent) values
    (1, 'Harbour District', 2,  6),
    (2, 'Old Town',         2,  9),
    (3, 'Northshore',       3, 11),
    (4, 'Riverbend',        3,  8),
    (5, 'Hillcrest',        4, 15),
    (6, 'Great Plain',      4, 12),
    (7, 'Pinewood',         5, 18),
    (8, 'Outer Islands',    7, 27);


-- Who buys ------------------------------------------------------------------------------------------------------------

create table customer (
    customer_id integer  not null,
    name        text     not null,
    region_id   smallint not null,
    joined_on   date     not null
);

-- The first 300 were there before the data begins; of the others more and more join every month.
insert into customer (customer_id, name, region_id, joined_on)
select n,
       first_name[1 + (n * 7) % 40] || ' ' || family[1 + (n * 3 + n / 40) % 10] || ending[1 + (n + n / 400) % 10],
       (array[1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 4, 5, 5, 6, 6, 7, 8])[1 + floor(18 * dice(h, 0))::integer],
       case when n <= 300 then date '2020-12-31' - floor(365 * dice(h, 1))::integer
            else date '2021-01-01' + floor(1820 * (x * (1.4 - 0.4 * x)))::integer end
from generate_series(1, 4000) as n
cross join lateral (select hash('customer', n, 0) as h, (n - 300) / 3700.0 as x offset 0) as thrown
cross join (select
    array['Alva', 'Brin', 'Calder', 'Dova', 'Edda', 'Fenno', 'Gisla', 'Hollin', 'Ilka', 'Joren', 'Kesta', 'Lovis',
          'Maren', 'Nilo', 'Oda', 'Perrin', 'Quilla', 'Runa', 'Selmo', 'Tindra', 'Ulric', 'Vesna', 'Wim', 'Yara',
          'Zeno', 'Ansa', 'Borea', 'Cosmin', 'Delphi', 'Emrik', 'Fia', 'Gorden', 'Hedi', 'Imke', 'Jarno', 'Kaja',
          'Linnea', 'Mirko', 'Nessa', 'Orlo'] as first_name,
    array['Ash', 'Birch', 'Cope', 'Dun', 'Elm', 'Fair', 'Gold', 'Hart', 'Ivory', 'Juniper'] as family,
    array['well', 'by', 'ford', 'ley', 'mere', 'son', 'stead', 'ton', 'wick', 'worth'] as ending) as names;


-- What is sold --------------------------------------------------------------------------------------------------------

create table product (
    product_id smallint      not null,
    name       text          not null,
    category   text          not null,
    price      numeric(8, 2) not null
);

-- Six categories of eight things, each made by five houses: 240 products.
-- Product p is thing p / 5 of house p % 5; what belongs together is made by one house within one category.
insert into product (product_id, name, category, price)
select p,
       (array['Alder', 'Brindle', 'Corra', 'Dunmore', 'Ember'])[1 + p % 5] || ' ' || thing,
       category,
       round(price * (array[100, 85, 120, 140, 95])[1 + p % 5] / 100.0) - 0.10
from (values
    ('Kitchen', array['teapot', 'kettle', 'saucepan', 'colander', 'bread knife', 'mixing bowl', 'whisk', 'pepper mill'],
                array[34, 49, 42, 24, 29, 19, 9, 27]),
    ('Table',   array['dinner plate', 'soup bowl', 'mug', 'wine glass', 'water jug', 'tablecloth', 'napkin set', 'tray'],
                array[14, 12, 10, 11, 26, 38, 16, 22]),
    ('Bedroom', array['pillow', 'duvet', 'bed sheet', 'blanket', 'bedside lamp', 'clothes rail', 'mirror', 'alarm clock'],
                array[32, 95, 44, 59, 48, 72, 85, 25]),
    ('Bathroom', array['hand towel', 'bath towel', 'bath mat', 'soap dish', 'shower curtain', 'laundry basket', 'robe', 'stool'],
                array[12, 24, 22, 9, 28, 36, 64, 41]),
    ('Garden',  array['trowel', 'watering can', 'planter', 'pruning shears', 'bird feeder', 'garden hose', 'lantern', 'bench'],
                array[13, 27, 31, 33, 21, 46, 23, 189]),
    ('Study',   array['desk lamp', 'notebook', 'pen tray', 'bookend', 'paper basket', 'wall clock', 'cushion', 'shelf'],
                array[56, 8, 15, 18, 20, 44, 26, 79])
) as shelf (category, things, prices)
join (values ('Kitchen', 0), ('Table', 1), ('Bedroom', 2), ('Bathroom', 3), ('Garden', 4), ('Study', 5)) as place (category, c)
    using (category)
cross join lateral generate_series(40 * c, 40 * c + 39) as p
cross join lateral (select things[1 + p % 40 / 5] as thing, prices[1 + p % 40 / 5] as price) as made
order by p;


-- What was bought -----------------------------------------------------------------------------------------------------

create table orders (
    order_id    integer   not null,
    customer_id integer   not null,
    ordered_at  timestamp not null,  -- the shop's own clock
    channel     text      not null
);

-- How many orders a day brings: growth by month, the season, the day of the week, and the Lantern Week in November.
-- Who orders: one in three joined lately, one in three is among the regulars (every seventh), the rest is anybody.
insert into orders (order_id, customer_id, ordered_at, channel)
select row_number() over (order by ordered_at, d, n), customer_id, ordered_at, channel
from (
    select d, date '2021-01-01' + d as day, 300 + sum(coalesce(joined, 0)) over (order by d)::integer as customers
    from generate_series(0, 1825) as d
    left join (select joined_on - date '2021-01-01' as d, count(*) as joined from customer group by joined_on) as joining
        using (d)
) as calendar
cross join lateral (
    select extract(isodow from day)::integer as weekday, extract(month from day)::integer as month,
           (extract(year from day)::integer - 2021) * 12 + extract(month from day)::integer as month_number,
           extract(month from day) = 11 and extract(day from day) between 20 and 27 as lantern_week
) as date_of
cross join lateral generate_series(1, (
    (100 + 3 * month_number)
    * (array[80, 78, 92, 101, 108, 100, 86, 80, 98, 108, 135, 165])[month]
    * (array[96, 91, 94, 100, 116, 128, 104])[weekday]
    * case when lantern_week then 9 else 5 end
    / 290000)::integer) as n
cross join lateral (select hash('order', d, n) as h offset 0) as thrown
cross join lateral (
    select case when dice(h, 0) < 0.33 then customers - floor(least(customers, 900) * dice(h, 1) * dice(h, 2) * dice(h, 6))::integer
                when dice(h, 0) < 0.66 then 7 * (1 + floor(customers / 7 * dice(h, 1) * dice(h, 2))::integer)
                else 1 + floor(customers * dice(h, 1))::integer end as customer_id,
           day + make_interval(
               hours => case when weekday < 6
                   then (array[0, 6, 7, 7, 8, 8, 9, 9, 10, 10, 11, 11, 12, 12, 12, 12, 13, 13, 14, 15, 16, 17, 17, 18, 18, 19, 19, 19,
                               20, 20, 20, 20, 20, 21, 21, 21, 21, 22, 22, 23])[1 + floor(40 * dice(h, 3))::integer]
                   else (array[0, 1, 7, 8, 9, 9, 9, 10, 10, 10, 10, 11, 11, 11, 11, 11, 12, 12, 12, 13, 13, 14, 14, 14, 15, 15, 15, 16,
                               16, 16, 17, 17, 18, 18, 19, 20, 20, 21, 22, 23])[1 + floor(40 * dice(h, 3))::integer] end,
               secs => floor(3600 * dice(h, 4))) as ordered_at,
           case when dice(h, 5) < 0.30 + 0.006 * month_number then 'app'
                when dice(h, 5) < 0.93 then 'web'
                else 'telephone' end as channel
) as ordered;

create table order_line (
    order_id          integer       not null,
    product_id        smallint      not null,
    quantity          smallint      not null,
    returned_quantity smallint      not null,
    unit_price        numeric(8, 2) not null
);

-- One to eight lines an order. The first is a favourite or something of the season; each further line often belongs to
-- the first one: made by the same house, for the same room. Prices rise by 3 % a year.
insert into order_line (order_id, product_id, quantity, returned_quantity, unit_price)
select distinct on (order_id, product_id)
       order_id, product_id, quantity,
       case when dice(h, 5) >= 0.04 + case when product.category = 'Bedroom' then 0.07 else 0 end then 0
            when dice(h, 6) < 0.6 then quantity
            else quantity / 2 end,
       round(price * (100 + 3 * (extract(year from ordered_at)::integer - 2021) - case when dice(h, 7) < 0.12 then 15 else 0 end) / 100.0, 2)
from (
    select order_id, ordered_at, extract(month from ordered_at)::integer as month, hash('basket', order_id, 0) as basket
    from orders
    offset 0
) as bought
cross join lateral generate_series(1, (array[1, 1, 1, 2, 2, 2, 3, 3, 3, 4, 4, 5, 6, 8])[1 + floor(14 * dice(basket, 0))::integer]) as n
cross join lateral (select hash('line', order_id, n) as h offset 0) as thrown
cross join lateral (
    select case when dice(basket, 1) < 0.2 and month between 3 and 6 then 160 + floor(40 * dice(basket, 2))::integer
                when dice(basket, 1) < 0.2 and month >= 11 then 40 + floor(40 * dice(basket, 2))::integer
                else floor(240 * dice(basket, 2) * dice(basket, 3))::integer * 77 % 240 end as first_product
    offset 0
) as began
cross join lateral (
    select case when n = 1 then first_product
                when dice(h, 0) < 0.35 then first_product / 40 * 40 + (first_product + 5 * (n - 1)) % 40
                else floor(240 * dice(h, 1) * dice(h, 2))::integer * 77 % 240 end as product_id,
           (array[1, 1, 1, 1, 1, 1, 2, 2, 2, 4])[1 + floor(10 * dice(h, 3))::integer] as quantity
    offset 0
) as line
join product using (product_id)
order by order_id, product_id, n;


-- How it arrived ------------------------------------------------------------------------------------------------------

create table delivery (
    order_id     integer not null,
    carrier      text    not null,
    promised_on  date    not null,
    delivered_on date              -- null: on its way when the data ends, on the last day of 2025
);

insert into delivery (order_id, carrier, promised_on, delivered_on)
select order_id, carrier, promised_on,
       case when arrival <= date '2025-12-31' then arrival end
from orders
join customer using (customer_id)
join region using (region_id)
cross join lateral (select hash('delivery', order_id, 0) as h offset 0) as thrown
cross join lateral (
    select ordered_at::date + promise_days as promised_on,
           (array['Swift & Sons', 'Bluebird Post', 'Bluebird Post', 'Cartwheel'])[1 + floor(4 * dice(h, 0))::integer] as carrier,
           late_percent / 100.0 * case extract(month from ordered_at)::integer when 12 then 2.2 when 11 then 1.5 else 1 end as late_share
) as promise
cross join lateral (
    select case when dice(h, 1) < late_share then promised_on + 1 + floor(9 * dice(h, 2) * dice(h, 3))::integer
                else greatest(ordered_at::date + 1, promised_on - floor(3 * dice(h, 2))::integer) end as arrival
) as came;

drop function hash(text, bigint, bigint);
drop function dice(bytea, integer);


-- Keys and indexes ----------------------------------------------------------------------------------------------------

alter table region add primary key (region_id);
alter table customer add primary key (customer_id), add foreign key (region_id) references region;
alter table product add primary key (product_id);
alter table orders add primary key (order_id), add foreign key (customer_id) references customer;
alter table order_line add primary key (order_id, product_id),
    add foreign key (order_id) references orders, add foreign key (product_id) references product;
alter table delivery add primary key (order_id), add foreign key (order_id) references orders;

create index on customer (region_id);
create index on orders (customer_id);
create index on orders (ordered_at);
create index on order_line (product_id);
create index on delivery (promised_on);

analyze region, customer, product, orders, order_line, delivery;

-- By this text later runs know that the data is there, complete, and ours. Change the data, raise the version.
comment on schema demo is 'Rowcast demo data, version 1';
