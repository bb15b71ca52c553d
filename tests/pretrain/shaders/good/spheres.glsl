// Shadertoy: ray-marched spheres over a checkered floor.
const int STEPS = 96;
const float FAR = 30.0;

float scene(vec3 p)
{
    vec3 cell = vec3(mod(p.x + 2.0, 4.0) - 2.0, p.y - 0.4 * sin(iTime + floor(p.x * 0.25 + 0.5)), mod(p.z, 4.0) - 2.0);
    return min(length(cell) - 1.0, p.y + 1.2);
}

vec3 normal_at(vec3 p)
{
    vec2 e = vec2(0.002, 0.0);
    return normalize(vec3(
        scene(p + e.xyy) - scene(p - e.xyy),
        scene(p + e.yxy) - scene(p - e.yxy),
        scene(p + e.yyx) - scene(p - e.yyx)));
}

void mainImage(out vec4 fragColor, in vec2 fragCoord)
{
    vec2 uv = (2.0 * fragCoord - iResolution.xy) / iResolution.y;
    vec3 eye = vec3(0.7 * iTime, 1.0, -4.0);
    vec3 ray = normalize(vec3(uv, 1.6));
    float travelled = 0.0;
    for (int i = 0; i < STEPS; ++i) {
        float d = scene(eye + travelled * ray);
        if (d < 0.001 || travelled > FAR) break;
        travelled += d;
    }
    vec3 sky = mix(vec3(0.9, 0.6, 0.4), vec3(0.2, 0.4, 0.8), clamp(uv.y + 0.4, 0.0, 1.0));
    vec3 color = sky;
    if (travelled < FAR) {
        vec3 p = eye + travelled * ray;
        vec3 n = normal_at(p);
        float light = max(dot(n, normalize(vec3(0.6, 0.8, -0.5))), 0.0);
        float check = mod(floor(p.x) + floor(p.z), 2.0);
        vec3 base = p.y < -1.19 ? vec3(0.3 + 0.5 * check) : 0.5 + 0.5 * cos(floor(p.x * 0.25 + 0.5) + vec3(0, 2, 4));
        color = mix(base * (0.15 + light), sky, travelled / FAR);
    }
    fragColor = vec4(sqrt(max(color, 0.0)), 1.0);
}
