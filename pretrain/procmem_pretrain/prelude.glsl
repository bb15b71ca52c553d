// Helper functions of the operations in operations.py; emit_glsl.py puts them into every shader.
uniform int zero;  // always 0: keeps drivers from unrolling loops, halves their compile time
uint mix_bits(uint x) {
    x ^= x >> 16; x *= 0x7feb352du; x ^= x >> 15; x *= 0x846ca68bu; x ^= x >> 16;
    return x;
}
uint hash_cell(ivec2 cell, uint seed) {
    return mix_bits(uint(cell.x) * 0x9e3779b1u ^ mix_bits(uint(cell.y) * 0x85ebca77u ^ seed));
}
float to_unit(uint x) { return float(x >> 8) * (1.0 / 16777216.0); }
float hash_unit(ivec2 cell, uint seed) { return to_unit(hash_cell(cell, seed)); }
vec2 hash_pair(ivec2 cell, uint seed) {
    uint h = hash_cell(cell, seed);
    return vec2(to_unit(h), to_unit(mix_bits(h + 0x68bc21ebu)));
}
vec2 rot(vec2 p, float angle) {
    float c = cos(angle), s = sin(angle);
    return vec2(c * p.x - s * p.y, s * p.x + c * p.y);
}
float value_noise(vec2 p, uint seed) {
    ivec2 i = ivec2(floor(p)); vec2 f = fract(p); vec2 u = f * f * (3.0 - 2.0 * f);
    return mix(mix(hash_unit(i, seed), hash_unit(i + ivec2(1, 0), seed), u.x),
               mix(hash_unit(i + ivec2(0, 1), seed), hash_unit(i + ivec2(1, 1), seed), u.x), u.y);
}
float corner(ivec2 cell, vec2 offset, uint seed) {
    float angle = 6.2831853 * hash_unit(cell, seed);
    return dot(vec2(cos(angle), sin(angle)), offset);
}
float gradient_noise(vec2 p, uint seed) {
    ivec2 i = ivec2(floor(p)); vec2 f = fract(p);
    vec2 u = f * f * f * (f * (f * 6.0 - 15.0) + 10.0);
    return mix(mix(corner(i, f, seed), corner(i + ivec2(1, 0), f - vec2(1, 0), seed), u.x),
               mix(corner(i + ivec2(0, 1), f - vec2(0, 1), seed),
                   corner(i + ivec2(1, 1), f - vec2(1, 1), seed), u.x), u.y);
}
float value_fbm(vec2 p, int octaves, float gain, uint seed) {
    float sum = 0.0, total = 0.0, amplitude = 1.0;
    for (int i = 0; i < octaves + zero; i++) {
        sum += amplitude * value_noise(p, seed + uint(i)); total += amplitude;
        p = rot(p, 0.6) * 2.03; amplitude *= gain;
    }
    return sum / total;
}
float gradient_fbm(vec2 p, int octaves, float gain, uint seed) {
    float sum = 0.0, total = 0.0, amplitude = 1.0;
    for (int i = 0; i < octaves + zero; i++) {
        sum += amplitude * gradient_noise(p, seed + uint(i)); total += amplitude;
        p = rot(p, 0.6) * 2.03; amplitude *= gain;
    }
    return sum / total;
}
vec2 noise_vector(vec2 p, uint seed) {
    return vec2(gradient_fbm(p, 3, 0.5, seed), gradient_fbm(p, 3, 0.5, seed + 101u));
}
vec3 worley(vec2 p, float t, uint seed) {
    ivec2 base = ivec2(floor(p)); float first = 9.0, second = 9.0, id = 0.0;
    for (int y = -1; y <= 1 + zero; y++) for (int x = -1; x <= 1 + zero; x++) {
        ivec2 cell = base + ivec2(x, y); vec2 h = hash_pair(cell, seed);
        vec2 site = vec2(cell) + 0.5 + 0.4 * sin(0.5 * t + 6.2831853 * h);
        float d = length(p - site);
        if (d < first) { second = first; first = d; id = hash_unit(cell, seed + 7u); }
        else if (d < second) second = d;
    }
    return vec3(first, second, id);
}
float relief(vec2 p, int octaves, float light, float height, uint seed) {
    const float e = 0.05;
    float h = gradient_fbm(p, octaves, 0.5, seed);
    vec2 slope = vec2(gradient_fbm(p + vec2(e, 0), octaves, 0.5, seed) - h,
                      gradient_fbm(p + vec2(0, e), octaves, 0.5, seed) - h) * (height / e);
    vec3 normal = normalize(vec3(-slope, 1.0));
    return max(dot(normal, normalize(vec3(cos(light), sin(light), 0.8))), 0.0);
}
float edge(float inside, float softness) { return smoothstep(-softness, softness, inside); }
float ball(vec2 p, float light) {
    float r2 = dot(p, p);
    if (r2 > 1.0) return 0.0;
    vec3 normal = vec3(p, sqrt(1.0 - r2));
    return 0.15 + 0.85 * max(dot(normal, normalize(vec3(cos(light), sin(light), 0.9))), 0.0);
}
float box_distance(vec2 p, vec2 size, float round_) {
    vec2 q = abs(p) - size + round_;
    return length(max(q, 0.0)) + min(max(q.x, q.y), 0.0) - round_;
}
float polygon_radius(vec2 p, float sides, float star) {
    float sector = 6.2831853 / sides, angle = atan(p.y, p.x);
    float local = abs(mod(angle, sector) - 0.5 * sector);
    return length(p) * mix(cos(local), 1.0 + cos(2.0 * local * sides * 0.5), star);
}
float blob_radius(vec2 p, float roughness, float t, uint seed) {
    vec2 direction = p / (length(p) + 1e-4);
    return length(p) * (1.0 + roughness * gradient_fbm(direction * 1.5 + 0.1 * t, 3, 0.5, seed) * 2.0);
}
vec2 kaleidoscope(vec2 p, float folds, float angle) {
    float sector = 6.2831853 / folds, a = mod(atan(p.y, p.x) + angle, sector);
    a = abs(a - 0.5 * sector);
    return length(p) * vec2(cos(a), sin(a));
}
vec2 repeat(vec2 p) { return 2.0 * fract(0.5 * p + 0.5) - 1.0; }
vec2 mirror_repeat(vec2 p) { return 2.0 * abs(2.0 * fract(0.25 * p) - 1.0) - 1.0; }
vec2 brick_repeat(vec2 p) {
    float row = floor(0.5 * p.y + 0.5);
    return repeat(p + vec2(mod(row, 2.0), 0.0));
}
vec2 scatter(vec2 p, float spread, uint seed) {
    ivec2 cell = ivec2(floor(p)); vec2 h = hash_pair(cell, seed);
    vec2 local = 2.0 * fract(p) - 1.0 - spread * (h - 0.5);
    float size = 0.5 + hash_unit(cell, seed + 3u);
    return rot(local, 6.2831853 * hash_unit(cell, seed + 5u) * spread) / size;
}
vec2 iterate_fold(vec2 p, float angle, float scale, float offset, int steps) {
    for (int i = 0; i < steps + zero; i++) p = rot(abs(p) - offset, angle) * scale;
    return p / pow(scale, float(steps)) * 2.0;
}
float waves(vec2 p, float t, uint seed) {
    float sum = 0.0;
    for (int i = 0; i < 5 + zero; i++) {
        vec2 h = hash_pair(ivec2(i, 17), seed);
        vec2 source = 3.0 * (h - 0.5) * 3.0;
        sum += sin(length(p - source) * (1.0 + h.x) - t);
    }
    return 0.5 + 0.2 * sum;
}
float segment_distance(vec2 p, vec2 a, vec2 b) {
    vec2 along = b - a, from_a = p - a;
    return length(from_a - along * clamp(dot(from_a, along) / (dot(along, along) + 1e-6), 0.0, 1.0));
}
float strokes(vec2 p, int count, float width, uint seed) {
    float nearest = 9.0;
    for (int i = 0; i < count + zero; i++) {
        vec2 a = 1.6 * (hash_pair(ivec2(i, 1), seed) - 0.5);
        vec2 b = 1.6 * (hash_pair(ivec2(i, 2), seed) - 0.5);
        vec2 c = 2.4 * (hash_pair(ivec2(i, 3), seed) - 0.5);
        vec2 last = a;
        for (int k = 1; k <= 6 + zero; k++) {
            float u = float(k) / 6.0;
            vec2 next = mix(mix(a, c, u), mix(c, b, u), u);
            nearest = min(nearest, segment_distance(p, last, next)); last = next;
        }
    }
    return edge(width - nearest, 0.012);
}
float julia(vec2 z, vec2 c) {
    float n = 0.0;
    for (int i = 0; i < 24 + zero; i++) {
        z = vec2(z.x * z.x - z.y * z.y, 2.0 * z.x * z.y) + c;
        if (dot(z, z) > 16.0) break;
        n += 1.0;
    }
    float smooth_n = n < 23.5 ? n + 1.0 - log2(max(0.5 * log2(max(dot(z, z), 1.0001)), 1e-3)) : 24.0;
    return clamp(smooth_n / 24.0, 0.0, 1.0);
}
float orbit_trap(vec2 z, vec2 c) {
    float trap = 4.0;
    for (int i = 0; i < 16 + zero; i++) {
        z = vec2(z.x * z.x - z.y * z.y, 2.0 * z.x * z.y) + c;
        trap = min(trap, min(abs(z.x), abs(z.y)) + 0.3 * abs(length(z) - 0.6));
        if (dot(z, z) > 16.0) break;
    }
    return clamp(1.0 - sqrt(trap), 0.0, 1.0);
}
float kali(vec2 p, vec2 c, int steps) {
    float sum = 0.0;
    for (int i = 0; i < steps + zero; i++) {
        p = abs(p) / max(dot(p, p), 0.01) - c;
        sum += exp(-2.0 * abs(length(p) - 0.5));
    }
    return sum / float(steps);
}
float sine_map(vec2 p, float strength, int steps, float t) {
    for (int i = 0; i < steps + zero; i++) p += strength * sin(p.yx * 1.7 + vec2(0.3 * t, 1.3 + float(i)));
    return 0.5 + 0.5 * sin(p.x) * cos(p.y);
}
float smooth_max(float a, float b, float k) {
    float h = max(k - abs(a - b), 0.0) / k;
    return max(a, b) + 0.25 * h * h * k;
}
vec3 hsv(float h, float s, float v) {
    vec3 k = abs(fract(h + vec3(1.0, 2.0 / 3.0, 1.0 / 3.0)) * 6.0 - 3.0);
    return v * mix(vec3(1.0), clamp(k - 1.0, 0.0, 1.0), s);
}
vec3 three_colors(float x, vec3 a, vec3 b, vec3 c) {
    return x < 0.5 ? mix(a, b, 2.0 * x) : mix(b, c, 2.0 * x - 1.0);
}
